"""The options of a cache."""

from dataclasses import dataclass

import torch

from fairseq_kd.cache.format import CacheFormat
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.device import choose_device

TAIL_SHAPES = 64


@dataclass(frozen=True)
class CachingOptions:
    """The options of a cache: the stored entries, and how they are computed."""

    subset: str = "train"
    top_k: int = 16
    temperatures: tuple[float, ...] = (1.0,)
    store: str = "compact"
    teacher_dtype: str = "float32"
    max_tokens: int = 4000
    cpu: bool = False
    tail_shapes: int | None = None  # None: TAIL_SHAPES, or none if all tokens are stored

    def __post_init__(self):
        if self.max_tokens < 1:
            raise KDError(f"--max-tokens {self.max_tokens}: must be at least 1")

    def device(self) -> torch.device:
        """See `choose_device`."""
        return choose_device(self.cpu)

    def rounds_products(self) -> bool:
        """Whether the teacher multiplies in bfloat16 and keeps its weights in float32: bfloat16 on a CPU."""
        return self.teacher_dtype == "bfloat16" and self.device().type == "cpu"

    def format(self, types: int, gold: bool = True) -> CacheFormat:
        """The format of the cache. types: entries of the target vocabulary. gold: see `CacheFormat`."""
        shapes = self.tail_shapes
        if shapes is None:
            shapes = 0 if self.top_k == types else TAIL_SHAPES
        return CacheFormat(self.top_k, tuple(sorted(self.temperatures)), types, self.store, shapes, gold)
