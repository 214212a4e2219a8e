"""Work in blocks of neighbouring sentences, shared by `fairseq-kd cache` and `fairseq-kd decode`.

The borders of the blocks depend on the sentences' sizes alone. A block is computed as a whole and becomes one part
file, which has a temporary name until it is on disk. The process that finds all parts complete joins them, and writes
the manifest last:

    parts/manifest.json         what the work is made from; another request is refused (`request`)
    parts/000000.bin ...        one finished block each
    parts/NAME                  data on which all blocks depend, if the work has such data (`shared_part`)
    ... manifest.json           the finished work; parts/ is then removed

If the work computes the same part for the same block, the finished files are the same, byte for byte, however often
the work was interrupted and however it was shared among processes.
"""

import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fairseq_kd.artifacts.folders import remove_leftovers
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, read_manifest
from fairseq_kd.artifacts.parts import check_part, read_part, with_hash
from fairseq_kd.artifacts.request import PARTS, begin
from fairseq_kd.artifacts.writing import CannotWrite, create_file, write_buffers
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress


@dataclass(frozen=True)
class Block:
    """Sentences from start to before end; `size` is the sum of their sizes (tokens, or sentences)."""

    number: int
    start: int
    end: int
    size: int

    def path(self, folder: Path) -> Path:
        """Its part file."""
        return folder / PARTS / f"{self.number:06}.bin"


class Work(Protocol):
    """What is done in blocks."""

    label: str  # of the progress line
    unit: str  # of the sizes: "tokens", "sentences"
    blocks: list[Block]

    def part(self, block: Block, advance: Callable[[int], None]) -> Iterable:
        """The content of the block's part file: buffers. May call advance(n) for the progress."""

    def join(self, folder: Path, request: dict) -> dict:
        """Write the finished files from all parts, then the manifest; return it."""

    def check(self, folder: Path, manifest: dict) -> None:
        """Raises KDError when the finished files are not as the manifest says."""


def cut_blocks(sizes: np.ndarray, block_size: int) -> list[Block]:
    """Blocks of about `block_size` together; sizes: of each sentence."""
    offsets = offsets_of(sizes)
    starts = np.flatnonzero(np.diff(offsets[:-1] // block_size, prepend=-1)).tolist()
    ends = [*starts[1:], len(sizes)]
    return [
        Block(number, start, end, int(offsets[end] - offsets[start]))
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def offsets_of(sizes: np.ndarray) -> np.ndarray:
    """The sum of the sizes before each sentence, and of all: int64 (sentences + 1)."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype("<i8")


def work_through(
    folder, request: dict, work: Work, shard: tuple[int, int] = (0, 1), inputs: Inputs | None = None
) -> dict | None:
    """Compute the missing blocks of this shard, and finish when no block is missing any more.

    request: what the work is made from, with its "kind". shard: (which, of how many); its blocks are which,
    which + of how many, and so on. inputs: the files that the work reads, compared before anything gets its name.
    Returns the manifest, or None when other processes have work left.
    Raises KDError when `folder` holds something else, or was begun from something else.
    """
    folder, inputs = Path(folder), inputs or Inputs()
    inputs.check()
    request = begin(folder, request)
    if read_manifest(folder) is None:
        _compute_missing(folder, work, work.blocks[shard[0] :: shard[1]], inputs)
    return _finish(folder, request, work)


def _compute_missing(folder: Path, work: Work, blocks: list[Block], inputs: Inputs) -> None:
    missing = [block for block in blocks if not block.path(folder).is_file()]
    total = sum(block.size for block in blocks)
    progress = Progress(work.label, total, work.unit, done=total - sum(block.size for block in missing))
    for block in missing:
        if read_manifest(folder) is not None:  # another process has finished all meanwhile
            break
        before = progress.done
        buffers = list(work.part(block, progress.advance))
        inputs.check()
        with _one_clear_error(folder):
            try:
                _write_part(block.path(folder), buffers)
            except FileNotFoundError:  # another process has finished all, and removed the parts, in this moment
                if read_manifest(folder) is None:
                    raise
        progress.reach(before + block.size)
    progress.finish()


def _write_part(part: Path, buffers: Iterable) -> None:
    part.parent.mkdir(exist_ok=True)  # gone if another process has just finished everything
    write_buffers(part, with_hash(buffers))


def shared_part(folder: Path, name: str, make: Callable[[], bytes]) -> bytes:
    """The content of parts/`name`, on which all blocks depend: the first process that needs it makes it.

    Raises KDError when it cannot be written, and when it was damaged since.
    """
    path = folder / PARTS / name
    if path.exists():
        return read_part(path)
    content = make()
    with _one_clear_error(folder):
        try:
            create_file(path, with_hash([content]))
            return read_part(path)  # it may be another process's: the first one decides
        except FileNotFoundError:  # another process has finished all, and removed the parts
            if read_manifest(folder) is None:
                raise
            return content


def _finish(folder: Path, request: dict, work: Work) -> dict | None:
    """Join the parts if all exist; None if some are missing or another process is joining them."""
    manifest = read_manifest(folder)
    if manifest is None:
        if not all(block.path(folder).is_file() for block in work.blocks):
            return None
        with ExitStack() as stack:
            try:
                stack.enter_context(exclusive(folder / MANIFEST_NAME))
            except KDError:
                return None
            with _one_clear_error(folder):
                # read again: another process may have finished between the first look and the lock
                if (manifest := read_manifest(folder)) is None:
                    for block in work.blocks:
                        check_part(block.path(folder))
                    manifest = work.join(folder, request)
    work.check(folder, manifest)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    remove_leftovers(folder / MANIFEST_NAME)
    return manifest


@contextmanager
def _one_clear_error(folder: Path):
    hint = (
        "while the parts are joined, the folder needs twice the size of the result. Finished parts are kept; run the "
        "same command again"
    )
    try:
        yield
    except CannotWrite as error:
        raise KDError(f"{error}; {hint}") from error
    except OSError as error:
        raise KDError(f"cannot write to {folder} ({error.strerror or error}): {hint}") from error
