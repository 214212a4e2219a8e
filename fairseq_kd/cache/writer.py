"""Writing a cache block by block, from any source of rows, and joining the parts into the arrays of the cache.

A part file has the arrays with one row per token, then crc, of its block. `artifacts.blocks`
decides which parts are computed. `join`, the last step, reads the parts one by one, so that it needs the memory of one
part, and writes the arrays and then the manifest. The tail shapes are fitted before the first part and stored in the
folder of the parts.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.blocks import Block, cut_blocks, offsets_of, shared_part, work_through
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.records import content_size, write_record
from fairseq_kd.artifacts.request import PARTS
from fairseq_kd.artifacts.writing import write_buffers
from fairseq_kd.cache.format import KIND, CacheFormat, check_sizes
from fairseq_kd.cache.values import Rows
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress


def join(
    folder: Path, request: dict, cache_format: CacheFormat, offsets, blocks: list, shapes=None, measure=None
) -> dict:
    """Write the arrays from the parts of all blocks, then the manifest; return the manifest.

    offsets: the first row of each sentence. shapes: the tail shapes, if the format has them. measure: see `Measure`.
    Each file is written under a temporary name. Temporary files of an interrupted attempt are overwritten.
    Raises KDError when a part does not have its expected size.
    """
    sizes = cache_format.file_sizes(len(offsets) - 1, int(offsets[-1]))
    progress = Progress("joining", sum(sizes.values()), "bytes")
    tail_mass = np.zeros(len(cache_format.temperatures))
    files = {"offsets.bin": _write(folder / "offsets.bin", [offsets.data], progress)}
    if shapes is not None:
        files["shapes.bin"] = _write(folder / "shapes.bin", [shapes.data], progress)
    for name in (*cache_format.token_arrays(), "crc"):
        pieces = _pieces(folder, cache_format, blocks, name)
        if name == "tail":
            pieces = _summing(pieces, cache_format, tail_mass)
        files[f"{name}.bin"] = _write(folder / f"{name}.bin", pieces, progress)
    progress.finish()
    manifest = request | {"mean_tail_mass": (tail_mass / int(offsets[-1])).tolist(), "files": files}
    if measure is not None:
        manifest["rounding"] = measure(lambda rows: stored_rows(folder, cache_format, rows))
    write_record(folder / "manifest.json", manifest)
    return manifest


def stored_rows(folder: Path, cache_format: CacheFormat, rows: np.ndarray) -> Rows:
    """The stored values of these rows, from the arrays of a cache that may have no manifest yet."""
    arrays = cache_format.token_arrays().items()
    maps = {
        name: np.memmap(folder / f"{name}.bin", dtype, "r").reshape(-1, columns) for name, (dtype, columns) in arrays
    }
    return Rows(**{name: array[rows] for name, array in maps.items()})


def _write(path: Path, pieces: Iterable, progress: Progress) -> str:
    """Write the pieces to `path` and return the sha256 of the file."""
    digest = hashlib.sha256()

    def counted():
        for piece in pieces:
            digest.update(piece)
            yield piece
            progress.advance(memoryview(piece).nbytes)

    write_buffers(path, counted())
    return digest.hexdigest()


def _pieces(folder: Path, cache_format: CacheFormat, blocks: list, name: str) -> Iterator[bytes]:
    """The bytes of one array in each part. A part has the arrays with one row per token, then crc, of its block."""
    for block in blocks:
        sizes = cache_format.file_sizes(block.end - block.start, block.size)
        order = [f"{array}.bin" for array in (*cache_format.token_arrays(), "crc")]
        path = block.path(folder)
        with open(path, "rb") as file:
            if content_size(path) != sum(sizes[array] for array in order):
                raise KDError(f"{path} was damaged after it was written: remove it, and run the same command again")
            file.seek(sum(sizes[array] for array in order[: order.index(f"{name}.bin")]))
            yield file.read(sizes[f"{name}.bin"])


def _summing(pieces: Iterable, cache_format: CacheFormat, mass: np.ndarray) -> Iterator:
    """Yield the pieces of the tail unchanged, and add their probabilities to `mass` (temperatures)."""
    dtype, columns = cache_format.token_arrays()["tail"]
    for piece in pieces:
        tail = np.frombuffer(piece, dtype).reshape(-1, columns)  # (tokens, temperatures)
        mass += np.exp(tail.astype(np.float64)).sum(axis=0)
        yield piece


LARGEST_BLOCK = 1 << 17  # target tokens: the work that a kill can lose; a block is sorted by length as a whole
LARGEST_ARRAY = 1 << 25  # stored values per block, which bounds the memory also for a large k

# (start, end, advance, tail shapes or None) -> the rows and the crcs (end - start, 2) of these sentences, in order
Compute = Callable[[int, int, Callable[[int], None], np.ndarray | None], tuple[Rows, np.ndarray]]
# (numbers of rows -> their stored values) -> an entry of the manifest, called once, when the arrays are complete
Measure = Callable[[Callable[[np.ndarray], Rows]], dict]


def write_cache(
    folder,
    cache_format: CacheFormat,
    made_from: dict,
    sizes: np.ndarray,
    compute: Compute,
    shard: tuple[int, int] = (0, 1),
    block_tokens: int | None = None,
    fit: Callable[[], np.ndarray] | None = None,
    inputs: Inputs | None = None,
    measure: Measure | None = None,
) -> dict | None:
    """Compute the missing parts of this shard, and complete the cache if all parts exist.

    made_from: the inputs and options on which the rows depend, for the manifest. sizes: target tokens of each sentence.
    compute: see `Compute`; it may call advance(tokens) for the progress. shard: see `work_through`.
    fit() -> the tail shapes (temperatures, G, V), if the format has them. inputs: see `work_through`.
    measure: makes the entry "rounding" of the manifest.
    Returns the manifest, or None if other processes are not done yet.
    Raises KDError when `folder` has other content, or an unfinished cache of another request.
    """
    if len(sizes) == 0:
        raise KDError(f"subset {made_from.get('subset')!r} has no sentences: there is nothing to cache")
    block_tokens = block_tokens or min(LARGEST_BLOCK, max(1, LARGEST_ARRAY // cache_format.k))
    blocks = cut_blocks(sizes, block_tokens)
    work = CacheWork(Path(folder), cache_format, compute, fit, offsets_of(sizes), blocks, measure)
    return work_through(folder, describe(cache_format, made_from, sizes, block_tokens), work, shard, inputs)


def describe(cache_format: CacheFormat, made_from: dict, sizes: np.ndarray, block_tokens: int) -> dict:
    """The request: format, counts, and `made_from` (teacher, data, ...)."""
    return {
        "kind": KIND,
        "format": cache_format.number,
        "k": cache_format.k,
        "temperatures": list(cache_format.temperatures),
        "types": cache_format.types,
        "store": cache_format.store,
        "tail_shapes": cache_format.tail_shapes,
        "dtypes": cache_format.dtypes(),
        "sentences": len(sizes),
        "tokens": int(sizes.sum()),
        "sizes_sha256": hashlib.sha256(sizes.astype("<i8").tobytes()).hexdigest(),
        "block_tokens": block_tokens,
        **made_from,
    }


@dataclass(frozen=True)
class CacheWork:
    """A `Work`. offsets: the first row of each sentence."""

    folder: Path
    cache_format: CacheFormat
    compute: Compute
    fit: Callable[[], np.ndarray] | None
    offsets: np.ndarray
    blocks: list[Block]
    measure: Measure | None = None
    label: str = "caching"
    unit: str = "tokens"

    @cached_property
    def shapes(self) -> np.ndarray | None:
        """The tail shapes (temperatures, G, V) that the first process fitted; None if the format has none."""
        if not self.cache_format.tail_shapes:
            return None
        size = self.cache_format.shapes_size()
        content = shared_part(self.folder, "shapes.bin", lambda: self.fit().astype("<f4").tobytes())
        if len(content) != 4 * np.prod(size):
            raise KDError(
                f"{self.folder / PARTS / 'shapes.bin'} was damaged after it was written: remove the folder "
                f"{self.folder / PARTS}, and run the same command again"
            )
        return np.frombuffer(content, "<f4").reshape(size)

    def part(self, block: Block, advance):
        """The arrays of a block, in the order in which `join` reads them."""
        rows, crc = self.compute(block.start, block.end, advance, self.shapes)
        for name, (dtype, columns) in self.cache_format.token_arrays().items():
            array = np.ascontiguousarray(getattr(rows, name), dtype=dtype)
            assert array.shape == (block.size, columns), f"{name} {array.shape} of {block}"
            yield array.data
        assert crc.shape == (block.end - block.start, 2), f"crc {crc.shape} of {block}"
        yield np.ascontiguousarray(crc, dtype="<u4").data

    def join(self, folder: Path, request: dict) -> dict:
        """See `join`."""
        return join(folder, request, self.cache_format, self.offsets, self.blocks, self.shapes, self.measure)

    def check(self, folder: Path, manifest: dict) -> None:
        """See `check_sizes`."""
        check_sizes(folder, manifest)
