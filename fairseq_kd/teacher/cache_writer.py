"""Writing a cache in blocks, so that it can be killed at any moment, continued, and shared out between processes.

A block is a run of neighbouring sentences, cut from their sizes alone. It is computed as a whole and becomes one part
file, under a temporary name until it is on disk. When all parts are there, whoever notices joins them, and the
manifest comes last:

    parts/manifest.json         what the cache is being made from; anything else is refused
    parts/000000.bin ...        one finished block each: ids, delta, tail, crc
    ids.bin ... manifest.json   the finished cache; parts/ is then removed

Nothing here knows of a teacher: `compute` gives the rows of a block. If it gives the same rows again, the finished
files are the same, byte for byte, however often and wherever the work was interrupted, and however it was shared.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_kd.corpus.manifest import MANIFEST_NAME, exclusive, read_manifest
from fairseq_kd.errors import KDError
from fairseq_kd.progress import Progress
from fairseq_kd.teacher.cache import CacheFormat, Rows, check_sizes
from fairseq_kd.teacher.cache_join import join
from fairseq_kd.teacher.cache_request import PARTS, begin, describe

LARGEST_BLOCK = 1 << 17  # target tokens: what a kill can cost, and what is sorted by length together
LARGEST_ARRAY = 1 << 25  # stored values of a block, so that memory is bounded for a large k too

# (start, end, advance) -> the rows and the crcs (end - start, 2) of these sentences, in order
Compute = Callable[[int, int, Callable[[int], None]], tuple[Rows, np.ndarray]]


@dataclass(frozen=True)
class Block:
    """Sentences from start to before end, which have `tokens` target tokens."""

    number: int
    start: int
    end: int
    tokens: int

    def path(self, folder: Path) -> Path:
        """Its part file."""
        return folder / PARTS / f"{self.number:06}.bin"


def cut_blocks(sizes: np.ndarray, block_tokens: int) -> list[Block]:
    """Blocks of about `block_tokens` target tokens; sizes: target tokens of each sentence."""
    offsets = token_offsets(sizes)
    starts = np.flatnonzero(np.diff(offsets[:-1] // block_tokens, prepend=-1)).tolist()
    ends = [*starts[1:], len(sizes)]
    return [
        Block(number, start, end, int(offsets[end] - offsets[start]))
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def token_offsets(sizes: np.ndarray) -> np.ndarray:
    """The first row of each sentence, and the number of all rows: int64 (sentences + 1)."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype("<i8")


def write_cache(
    folder,
    cache_format: CacheFormat,
    made_from: dict,
    sizes: np.ndarray,
    compute: Compute,
    shard: tuple[int, int] = (0, 1),
    block_tokens: int | None = None,
) -> dict | None:
    """Compute what is missing of this shard, and finish the cache if no block is missing any more.

    made_from: what the rows depend on, for the manifest. sizes: target tokens of each sentence.
    compute: see `Compute`; it may call advance(tokens) for the progress.
    shard: (which, of how many); its blocks are which, which + of how many, and so on.
    Returns the manifest, or None when other processes have work left.
    Raises KDError when `folder` holds something else, or was begun from something else.
    """
    folder = Path(folder)
    if len(sizes) == 0:
        raise KDError(f"subset {made_from.get('subset')!r} has no sentences: there is nothing to cache")
    block_tokens = block_tokens or min(LARGEST_BLOCK, max(1, LARGEST_ARRAY // cache_format.k))
    request = begin(folder, describe(cache_format, made_from, sizes, block_tokens))
    blocks = cut_blocks(sizes, block_tokens)
    if read_manifest(folder) is None:
        _compute_missing(folder, cache_format, blocks[shard[0] :: shard[1]], compute)
    return _finish(folder, request, cache_format, token_offsets(sizes), blocks)


def _compute_missing(folder: Path, cache_format: CacheFormat, blocks: list[Block], compute: Compute) -> None:
    missing = [block for block in blocks if not block.path(folder).is_file()]
    total = sum(block.tokens for block in blocks)
    progress = Progress("caching", total, "tokens", done=total - sum(block.tokens for block in missing))
    for block in missing:
        if read_manifest(folder) is not None:  # another process has finished all meanwhile
            break
        before = progress.done
        rows, crc = compute(block.start, block.end, progress.advance)
        with _one_clear_error(folder):
            try:
                _write_part(folder, block, cache_format, rows, crc)
            except FileNotFoundError:  # another process has finished all, and removed the parts, in this moment
                if read_manifest(folder) is None:
                    raise
        progress.reach(before + block.tokens)
    progress.finish()


def _write_part(folder: Path, block: Block, cache_format: CacheFormat, rows: Rows, crc: np.ndarray) -> None:
    part = block.path(folder)
    part.parent.mkdir(exist_ok=True)  # gone if another process has just finished everything
    temporary = part.with_name(f".{part.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        for name, (dtype, columns) in cache_format.token_arrays().items():
            array = np.ascontiguousarray(getattr(rows, name), dtype=dtype)
            assert array.shape == (block.tokens, columns), f"{name} {array.shape} of {block}"
            file.write(array.data)
        assert crc.shape == (block.end - block.start, 2), f"crc {crc.shape} of {block}"
        file.write(np.ascontiguousarray(crc, dtype="<u4").data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, part)


def _finish(folder: Path, request: dict, cache_format: CacheFormat, offsets, blocks: list[Block]) -> dict | None:
    """Join the parts if all are there; None if some are missing or another process is joining them."""
    manifest = read_manifest(folder)
    if manifest is None:
        if not all(block.path(folder).is_file() for block in blocks):
            return None
        with ExitStack() as stack:
            try:
                stack.enter_context(exclusive(folder / MANIFEST_NAME))
            except KDError:
                return None
            # looked at again: another process may have finished between the first look and the lock
            with _one_clear_error(folder):
                manifest = read_manifest(folder) or join(folder, request, cache_format, offsets, blocks)
    check_sizes(folder, manifest)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    for leftover in folder.glob(f".{MANIFEST_NAME}.*"):  # of a process that was killed while it wrote the manifest
        leftover.unlink(missing_ok=True)
    return manifest


@contextmanager
def _one_clear_error(folder: Path):
    try:
        yield
    except OSError as error:  # a full disk, above all
        raise KDError(
            f"cannot write to {folder} ({error.strerror or error}): while the parts are joined it needs twice the "
            "size of the cache. What is finished is kept; make room and run the same command again"
        ) from error
