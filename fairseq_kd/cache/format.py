"""The teacher cache on disk: the stored values of each target token, and the distribution that is rebuilt from them.

A folder of raw little-endian arrays, row-major, with one row per target token (EOS counts), in the order of the
data-bin:

    ids.bin        (tokens, k)             vocabulary entries by falling probability; uint16, int32 when V > 65,536
    delta.bin      (tokens, k)             t_max - t_i, nats: the largest logit (or lprob) minus each logit
    tail.bin       (tokens, temperatures)  ln of the mass of the V - k other entries at each temperature, nats
    offsets.bin    (sentences + 1)         int64: the first row of each sentence
    crc.bin        (sentences, 2)          uint32: zlib.crc32 of the source ids and of the target ids
    shape_ids.bin  (tokens, 1)             uint8: number of the tail's shape        } unless the cache was made
    shapes.bin     (temperatures, G, V)    float32: log-probabilities of the shapes } with --tail-shapes 0
    gold.bin       (tokens, 1)             float32: ln p(gold token) at temperature 1
    manifest.json  the inputs and options of the cache, with hashes; written last

delta and tail are float16 (`compact`) or float32. The rebuilt probabilities of the k entries at temperature T are
(1 - tail_T) · softmax(-delta / T): their mass is exact, and the tail is never negative. The mass of the tail at T does
not follow from the mass at another T, so the temperatures are chosen when the cache is made.
With k = V no entry is left out: the tail is -inf, and the whole distribution is rebuilt.
The temperatures of shapes.bin, in rising order, are the temperatures of the tails and 1. The shape of a token is chosen
at 1. Format 1 had no shapes, and formats 1 and 2 had no gold.bin.
"""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.core.errors import KDError

READABLE = (1, 2, 3)
WITH_GOLD = 3  # the first format with gold.bin
KIND = "fairseq_kd teacher cache"
STORES = {"compact": "<f2", "float32": "<f4"}
SENTENCE_ARRAYS = {"offsets": "<i8", "crc": "<u4"}
MOST_SHAPES = 256  # the numbers that one byte can hold


@dataclass(frozen=True)
class CacheFormat:
    """The content of the arrays: k entries per token out of `types` (V), and one tail for each of the temperatures.

    tail_shapes: G, 0 for none. gold: whether the log-probability of the gold token is stored.
    """

    k: int
    temperatures: tuple[float, ...]
    types: int
    store: str = "compact"
    tail_shapes: int = 0
    gold: bool = False

    def __post_init__(self):
        if not 1 <= self.k <= self.types:
            raise KDError(
                f"--top-k {self.k}: must be from 1 to {self.types}, the number of tokens in the target dictionary"
            )
        if not self.temperatures:
            raise KDError("--temperature: give at least one")
        for temperature in self.temperatures:
            if not (math.isfinite(temperature) and temperature > 0):
                raise KDError(
                    f"--temperature {temperature:g}: must be above 0, because it divides the teacher's logits"
                )
            if self.temperatures.count(temperature) > 1:
                raise KDError(f"--temperature {temperature:g} is given twice: give it once")
        if self.store not in STORES:
            raise KDError(f"--store {self.store}: must be one of {', '.join(STORES)}")
        if not 0 <= self.tail_shapes <= MOST_SHAPES:
            raise KDError(
                f"--tail-shapes {self.tail_shapes}: must be from 0 (none) to {MOST_SHAPES}, because one byte per "
                "token stores the number of its shape"
            )
        if self.tail_shapes and self.is_dense:
            raise KDError(
                f"--tail-shapes {self.tail_shapes} has no effect with --top-k {self.k}: all tokens are stored, so "
                "there is no tail. Omit it"
            )

    @property
    def number(self) -> int:
        """The number of the format, for the manifest."""
        return WITH_GOLD if self.gold else WITH_GOLD - 1

    @property
    def is_dense(self) -> bool:
        """Whether all entries are stored, so that there is no tail."""
        return self.k == self.types

    def token_arrays(self) -> dict[str, tuple[np.dtype, int]]:
        """(dtype, columns) of each array with one row per token."""
        real = np.dtype(STORES[self.store])
        ids = np.dtype("<u2" if self.types <= 1 << 16 else "<i4")
        arrays = {"ids": (ids, self.k), "delta": (real, self.k), "tail": (real, len(self.temperatures))}
        if self.tail_shapes:
            arrays["shape_ids"] = (np.dtype("u1"), 1)
        if self.gold:
            arrays["gold"] = (np.dtype("<f4"), 1)
        return arrays

    def shape_temperatures(self) -> tuple[float, ...]:
        """The temperatures of the tail shapes, in rising order."""
        return tuple(sorted({1.0, *self.temperatures}))

    def shapes_size(self) -> tuple[int, int, int]:
        """Size of the array of the tail shapes: temperatures, shapes, vocabulary."""
        return len(self.shape_temperatures()), self.tail_shapes, self.types

    def bytes_per_token(self) -> int:
        """Bytes per target token on disk, without the 16 bytes per sentence."""
        return sum(dtype.itemsize * columns for dtype, columns in self.token_arrays().values())

    def file_sizes(self, sentences: int, tokens: int) -> dict[str, int]:
        """Bytes of each array file, by file name."""
        sizes = {
            f"{name}.bin": dtype.itemsize * columns * tokens for name, (dtype, columns) in self.token_arrays().items()
        }
        sizes |= {"offsets.bin": 8 * (sentences + 1), "crc.bin": 8 * sentences}
        return sizes | ({"shapes.bin": 4 * math.prod(self.shapes_size())} if self.tail_shapes else {})

    def dtypes(self) -> dict[str, str]:
        """Name of each array's dtype, for the manifest."""
        found = {name: dtype.str for name, (dtype, _) in self.token_arrays().items()}
        return found | SENTENCE_ARRAYS | ({"shapes": "<f4"} if self.tail_shapes else {})


def format_of(manifest: dict) -> CacheFormat:
    """The format in a manifest, or in the request of an unfinished cache."""
    return CacheFormat(
        manifest["k"],
        tuple(manifest["temperatures"]),
        manifest["types"],
        manifest["store"],
        manifest.get("tail_shapes", 0),  # format 1 has none
        manifest["format"] >= WITH_GOLD,
    )


def check_sizes(folder, manifest: dict) -> None:
    """Raises KDError when an array file of a complete cache is missing or has another size than its manifest says."""
    for name, expected in format_of(manifest).file_sizes(manifest["sentences"], manifest["tokens"]).items():
        path = Path(folder) / name
        found = path.stat().st_size if path.is_file() else None
        if found != expected:
            state = "is missing" if found is None else f"has {found:,} bytes"
            raise KDError(
                f"{path} {state}, its manifest promises {expected:,}: the cache was damaged or copied in part. Copy it "
                "again, or remove the folder and make it again with fairseq-kd cache"
            )


def sentence_crcs(tokens: torch.Tensor | np.ndarray, padding: int) -> np.ndarray:
    """zlib.crc32 (uint32) of each sentence of a batch (B, T): its ids as little-endian int32, without padding.

    Padding may be at either end. EOS counts.
    """
    if isinstance(tokens, torch.Tensor):
        tokens = tokens.detach().cpu().numpy()
    rows = np.ascontiguousarray(tokens.astype("<i4"))  # (B, T)
    real = rows != padding
    starts = real.argmax(axis=1)
    ends = rows.shape[1] - real[:, ::-1].argmax(axis=1)
    spans = zip(rows, starts.tolist(), ends.tolist(), strict=True)
    return np.array([zlib.crc32(row[start:end]) for row, start, end in spans], dtype=np.uint32)
