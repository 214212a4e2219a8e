"""Does a teacher cache of millions of sentences stay within the memory of one block, written and read?

Usage: python benchmarks/cache_scale.py [--sentences 5000000] [--batches 2000] [--folder DIR]

A generated signal replaces the teacher: 25 target tokens per sentence on average, k = 8, three temperatures.
Written by the writer of `fairseq-kd cache`, then read in random batches of about 4,000 tokens as a training does
(row numbers, rows, rebuilt distribution). Printed: bytes, seconds and peak memory of writing; milliseconds a batch,
and how much the memory of the process grew: `own` is what it allocated, `mapped` are pages of the files, which the
kernel takes back when it needs them. The baseline is the memory that holding the arrays would take: their size.
DIR is removed at the end; while the parts are joined it needs twice the size of the cache (2 x 4.9 GB).
"""

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.artifacts.blocks import offsets_of
from fairseq_kd.cache.format import CacheFormat
from fairseq_kd.cache.reader import CacheReader
from fairseq_kd.cache.values import Rows, rebuild
from fairseq_kd.cache.writer import write_cache

FORMAT = CacheFormat(k=8, temperatures=(1.0, 2.0, 4.0), types=32000)
SENTENCES_PER_BATCH = 160  # each of 25 tokens


def generated(sizes: np.ndarray):
    """The replacement of the teacher: rows that depend only on the block."""
    offsets = offsets_of(sizes)

    def compute(start: int, end: int, advance, shapes) -> tuple[Rows, np.ndarray]:
        tokens = int(offsets[end] - offsets[start])
        rng = np.random.default_rng(start)
        ids = rng.integers(FORMAT.types, size=(tokens, FORMAT.k), dtype=np.uint16)
        delta = np.cumsum(rng.random((tokens, FORMAT.k), dtype=np.float32), axis=1)
        tail = -1 - rng.random((tokens, len(FORMAT.temperatures)), dtype=np.float32)
        advance(tokens)
        return Rows(ids, delta - delta[:, :1], tail), rng.integers(1 << 32, size=(end - start, 2), dtype=np.uint32)

    return compute


def memory() -> tuple[float, float]:
    """(own, mapped from files) resident memory of this process, MB."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    found = {words[0]: int(words[1]) / 1024 for words in lines if words[0] in ("RssAnon:", "RssFile:")}
    return found["RssAnon:"], found["RssFile:"]


def peak() -> float:
    """Largest resident memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(folder: Path, sentences: int) -> int:
    """Write the cache and print what it took; return its bytes."""
    sizes = np.random.default_rng(0).integers(1, 50, size=sentences)  # 25 on average
    before, started = peak(), time.monotonic()
    manifest = write_cache(folder, FORMAT, {"subset": "train"}, sizes, generated(sizes))
    seconds = time.monotonic() - started
    size = sum(FORMAT.file_sizes(sentences, manifest["tokens"]).values())
    print(
        f"written: {sentences:,} sentences, {manifest['tokens']:,} tokens, {size / 1e6:,.1f} MB "
        f"({FORMAT.bytes_per_token()} bytes per token) in {seconds:.1f} s; peak memory {peak():,.0f} MB, of which "
        f"{before:,.0f} MB before"
    )
    return size


def read(folder: Path, batches: int, size: int) -> None:
    """Read random batches and print what it took."""
    started = time.monotonic()
    reader = CacheReader(folder)
    print(f"opened with all hashes checked in {time.monotonic() - started:.1f} s")
    rng = np.random.default_rng(1)
    read_batch(reader, rng)
    own, mapped = memory()
    seconds = []
    for _ in range(batches):
        started = time.monotonic()
        read_batch(reader, rng)
        seconds.append(time.monotonic() - started)
    now = memory()
    print(
        f"read: {batches:,} random batches, median {1000 * np.median(seconds):.2f} ms, 95 % below "
        f"{1000 * np.quantile(seconds, 0.95):.2f} ms; memory grew by {now[0] - own:,.1f} MB own and "
        f"{now[1] - mapped:,.1f} MB mapped; own growth / size of the arrays {(now[0] - own) * 2**20 / size:.4f}"
    )


def read_batch(reader: CacheReader, rng) -> None:
    """Rows of a random batch and the distribution of each, as for a training."""
    sentences = rng.integers(len(reader), size=SENTENCES_PER_BATCH)
    stored = reader.rows(reader.sentence_rows(sentences))
    column = reader.tail_column(2.0)
    rebuild(torch.from_numpy(stored.delta), torch.from_numpy(stored.tail[:, column].copy()), 2.0)


def main() -> None:
    """Parse the options, write, read, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=5_000_000)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--folder", help="a folder on the disk to use (default: the folder for temporary files)")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cache-scale-", dir=args.folder))
    try:
        size = write(folder, args.sentences)
        read(folder, args.batches, size)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
