"""The last step of writing a cache: parts -> arrays -> manifest, streamed, so that memory is that of one part."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from fairseq_kd.corpus.manifest import write_json
from fairseq_kd.errors import KDError
from fairseq_kd.progress import Progress
from fairseq_kd.teacher.cache import CacheFormat


def join(folder: Path, request: dict, cache_format: CacheFormat, offsets, blocks: list, shapes=None) -> dict:
    """Write the arrays from the parts of all blocks, then the manifest; return it.

    offsets: of the first row of each sentence. shapes: the tail shapes, if the format has them.
    Each file is written under a temporary name, and what an interrupted attempt left is overwritten.
    Raises KDError when a part has not the size that it must have.
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
    write_json(folder / "manifest.json", manifest)
    return manifest


def _write(path: Path, pieces: Iterable, progress: Progress) -> str:
    """Write the pieces to `path` and return the sha256 of all."""
    digest = hashlib.sha256()
    temporary = path.with_name(f".{path.name}.part")
    with open(temporary, "wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            progress.advance(memoryview(piece).nbytes)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return digest.hexdigest()


def _pieces(folder: Path, cache_format: CacheFormat, blocks: list, name: str) -> Iterator[bytes]:
    """The bytes of one array in each part. A part holds the arrays with a row a token and then crc, of its block."""
    for block in blocks:
        sizes = cache_format.file_sizes(block.end - block.start, block.size)
        order = [f"{array}.bin" for array in (*cache_format.token_arrays(), "crc")]
        path = block.path(folder)
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != sum(sizes[array] for array in order):
                raise KDError(f"{path} was damaged after it was written: remove it, and run the same command again")
            file.seek(sum(sizes[array] for array in order[: order.index(f"{name}.bin")]))
            yield file.read(sizes[f"{name}.bin"])


def _summing(pieces: Iterable, cache_format: CacheFormat, mass: np.ndarray) -> Iterator:
    """Pass the pieces of the tail on, adding its probabilities to `mass` (temperatures)."""
    dtype, columns = cache_format.token_arrays()["tail"]
    for piece in pieces:
        tail = np.frombuffer(piece, dtype).reshape(-1, columns)  # (tokens, temperatures)
        mass += np.exp(tail.astype(np.float64)).sum(axis=0)
        yield piece
