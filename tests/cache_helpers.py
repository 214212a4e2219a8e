"""Caches of a signal that is generated without a teacher, and the content of two caches for comparisons."""

import numpy as np

from fairseq_kd.cache.format import CacheFormat
from fairseq_kd.cache.values import Rows
from fairseq_kd.cache.writer import write_cache

FORMAT = CacheFormat(k=3, temperatures=(1.0, 2.0), types=50, tail_shapes=4, gold=True)
SIZES = np.random.default_rng(0).integers(1, 12, size=60)
BLOCK_TOKENS = 40


def fitted() -> np.ndarray:
    """Tail shapes; the first value is -4."""
    return np.arange(-4, 396, dtype=np.float32).reshape(FORMAT.shapes_size())


def generated(start: int, end: int, advance, shapes):
    """Rows that name their place: ids, delta and gold hold sentence and position, the tail holds the first shape."""
    tokens = [(sentence, position) for sentence in range(start, end) for position in range(SIZES[sentence])]
    ids = np.array([[sentence % 50, position, 7] for sentence, position in tokens])
    delta = np.array([[0, position, sentence] for sentence, position in tokens], dtype=np.float32)
    tail = np.array([[shapes[0, 0, 0], -2] for _ in tokens], dtype=np.float32)
    shape_ids = np.array([[position % 4] for _, position in tokens])
    gold = np.array([[-sentence - position / 100] for sentence, position in tokens])
    advance(len(tokens))
    crc = np.array([[sentence, sentence + 1] for sentence in range(start, end)])
    return Rows(ids, delta, tail, shape_ids, gold), crc


def write(folder, compute=generated, shard=(0, 1), fit=fitted, **made_from):
    """Write the generated cache, or continue one that is not complete."""
    made_from = {"subset": "train", **made_from}
    return write_cache(folder, FORMAT, made_from, SIZES, compute, shard, BLOCK_TOKENS, fit)


def content(folder) -> dict:
    """Name of each file in a folder, hidden files included, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
