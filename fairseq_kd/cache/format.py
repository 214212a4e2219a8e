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
    manifest.json  the inputs and options of the cache, with hashes; written last

delta and tail are float16 (`compact`) or float32. The rebuilt probabilities of the k entries at temperature T are
(1 - tail_T) · softmax(-delta / T): their mass is exact, and the tail is never negative. The mass of the tail at T does
not follow from the mass at another T, so the temperatures are chosen when the cache is made.
With k = V no entry is left out: the tail is -inf, and the whole distribution is rebuilt.
The temperatures of shapes.bin, in rising order, are the temperatures of the tails and 1. The shape of a token is chosen
at 1. Format 1 had no shapes.
"""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.cache.tail_shapes import affinity
from fairseq_kd.core.errors import KDError
from fairseq_kd.loss.rows import bucket, temper
from fairseq_kd.loss.signal import SMALLEST_TAIL

FORMAT = 2
READABLE = (1, 2)
KIND = "fairseq_kd teacher cache"
STORES = {"compact": "<f2", "float32": "<f4"}
LARGEST_DELTA = 60000.0  # nats; the largest float16 is 65504. In float32 the probability is 0 in both cases
SENTENCE_ARRAYS = {"offsets": "<i8", "crc": "<u4"}
MOST_SHAPES = 256  # the numbers that one byte can hold


@dataclass(frozen=True)
class CacheFormat:
    """The content of the arrays: k entries per token out of `types` (V), and one tail for each of the temperatures.

    tail_shapes: G, 0 for none.
    """

    k: int
    temperatures: tuple[float, ...]
    types: int
    store: str = "compact"
    tail_shapes: int = 0

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
    def is_dense(self) -> bool:
        """Whether all entries are stored, so that there is no tail."""
        return self.k == self.types

    def token_arrays(self) -> dict[str, tuple[np.dtype, int]]:
        """(dtype, columns) of each array with one row per token."""
        real = np.dtype(STORES[self.store])
        ids = np.dtype("<u2" if self.types <= 1 << 16 else "<i4")
        arrays = {"ids": (ids, self.k), "delta": (real, self.k), "tail": (real, len(self.temperatures))}
        return arrays | ({"shape_ids": (np.dtype("u1"), 1)} if self.tail_shapes else {})

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
    shapes = manifest.get("tail_shapes", 0)  # format 1 has none
    return CacheFormat(manifest["k"], tuple(manifest["temperatures"]), manifest["types"], manifest["store"], shapes)


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


@dataclass(frozen=True)
class Rows:
    """The stored values of n tokens: ids and delta (n, k), tail (n, temperatures), and with shapes shape_ids (n, 1)."""

    ids: np.ndarray
    delta: np.ndarray
    tail: np.ndarray
    shape_ids: np.ndarray | None = None


def encode(lprobs: torch.Tensor, cache_format: CacheFormat, root_shapes: torch.Tensor | None = None) -> Rows:
    """The values to store, as `encoded`, on the host."""
    return Rows(*(tensor.cpu().numpy() for tensor in encoded(lprobs, cache_format, root_shapes)))


def encoded(lprobs, cache_format: CacheFormat, root_shapes: torch.Tensor | None = None) -> list[torch.Tensor]:
    """The fields of `Rows` for teacher log-probabilities (n, V) at temperature 1, before rounding to the stored dtypes.

    root_shapes (G, V): square roots of the tail shapes at temperature 1, if the format has shapes.
    The tail at T is the sum over the entries that are left out, so that a small tail keeps its precision.
    """
    top, ids = lprobs.topk(cache_format.k, dim=-1)  # (n, k)
    delta = (top[:, :1] - top).clamp(max=LARGEST_DELTA)
    tails = []
    for temperature in cache_format.temperatures:
        if cache_format.is_dense:
            tails.append(torch.full_like(top[:, 0], float("-inf")))
            continue
        tails.append(bucket(temper(lprobs, temperature), ids)[:, -1].clamp(min=SMALLEST_TAIL))
    rows = [ids, delta, torch.stack(tails, dim=-1)]
    if cache_format.tail_shapes:
        rows.append(affinity(lprobs, ids, root_shapes).argmax(dim=-1, keepdim=True))  # (n, 1)
    return rows


def encoded_logits(logits, cache_format: CacheFormat, root_shapes: torch.Tensor | None = None) -> list[torch.Tensor]:
    """As `encoded`, from logits (n, V) and k < V, with half as many passes over the vocabulary.

    The results differ from those of `encoded` by float32 rounding, which is far below that of logits in bfloat16.
    """
    top, ids = _largest(logits, cache_format.k)  # (n, k)
    delta, below = (top[:, :1] - top).clamp(max=LARGEST_DELTA), logits - top[:, :1]
    root = torch.mul(below, 0.5).exp_().scatter_(-1, ids, 0)  # square roots of the tail, up to a factor per row
    tails = []
    for temperature in cache_format.temperatures:
        if temperature == 1:
            outside = torch.linalg.vector_norm(root, dim=-1).square()
        else:
            outside = torch.div(below, temperature).exp_().scatter_(-1, ids, 0).sum(dim=-1)
        inside = torch.div(delta, -temperature).exp_().sum(dim=-1)
        tails.append((outside / (inside + outside)).log_().clamp_(min=SMALLEST_TAIL))
    rows = [ids, delta, torch.stack(tails, dim=-1)]
    if cache_format.tail_shapes:
        rows.append((root.to(root_shapes.dtype) @ root_shapes.t()).argmax(dim=-1, keepdim=True))  # (n, 1)
    return rows


def _largest(values: torch.Tensor, k: int, group: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """As values.topk(k), but equal values can come in another order; on a CPU in about half of the time.

    The k largest of a row (n, V) are in the k groups of columns with the largest maxima, or in the last columns, which
    are in no group. Group g of w has the columns g, g + w, g + 2w, ...
    """
    width = values.size(1) // group
    if width < 4 * k:
        return values.topk(k, dim=-1)
    groups = (
        values[:, : width * group].unflatten(1, (group, width)).amax(dim=1).topk(k, dim=-1, sorted=False).indices
    )  # (n, k)
    members = groups.unsqueeze(1) + width * torch.arange(group, device=values.device).unsqueeze(1)  # (n, group, k)
    last = torch.arange(width * group, values.size(1), device=values.device).expand(len(values), -1)
    columns = torch.cat([members.flatten(1), last], dim=1)
    top, places = values.gather(1, columns).topk(k, dim=-1)
    return top, columns.gather(1, places)


def rebuild(delta: torch.Tensor, tail: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(lprobs (n, k), tail (n,)) at `temperature`, float32, from the stored delta (n, k) and its tail (n,).

    p_K = (1 - tail) · softmax(-delta / T), in log space. A tail of -inf (k = V) does not change.
    """
    delta, tail = delta.float(), tail.float()
    inside = torch.log(-torch.expm1(tail))  # ln(1 - e^tail); expm1 keeps the digits of a tail near 1
    lprobs = torch.log_softmax(delta / -temperature, dim=-1) + inside.unsqueeze(-1)
    return lprobs, torch.where(tail.isinf(), tail, tail.clamp(min=SMALLEST_TAIL))


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
