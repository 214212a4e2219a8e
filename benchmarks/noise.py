"""How fast is `fairseq-kd noise` against a plain Python loop over lines, on one core, and how much memory does it take?

Usage: python benchmarks/noise.py [--sentences 200000] [--rounds 3]
       python benchmarks/noise.py --memory 5000000

Generated text: 25 words per line, drawn from 200,000 different words by Zipf's law, some of the letters not ASCII. Both
read the same file and write one; the loop draws one random number per word, as the definition asks, and does not count
what it did. Counting the words, for substitutes, is timed by itself. Printed: CPU seconds of this process (median of
the rounds, in turn) and the ratio. --memory: the whole command on this number of pairs with noise on both sides, and
its peak memory; the folder for temporary files needs 700 bytes a pair.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import accumulate
from pathlib import Path
from statistics import median

import numpy as np

from fairseq_kd.corpus.text import read_blocks
from fairseq_kd.noise.operations import BLOCK_LINES, NoiseOptions
from fairseq_kd.noise.side import NoisySide
from fairseq_kd.noise.text_level import TextLevel

WORDS, TYPES = 25, 200_000
MIXES = {
    "delete 10 %": {"delete": 0.1},
    "substitute 10 %": {"substitute": 0.1},
    "swap 10 %": {"swap": 0.1},
    "10 % of each": {"delete": 0.1, "substitute": 0.1, "swap": 0.1},
}


def generate(path: Path, sentences: int, seed: int) -> None:
    """Write the text."""
    rng, letters = np.random.default_rng(seed), random.Random(1)
    types = ["".join(letters.choices("abdeghiklmnorstuäé", k=letters.randint(1, 9))) for _ in range(TYPES)]
    probs = 1 / np.arange(1, TYPES + 1)
    with open(path, "w", encoding="utf-8") as file:
        for start in range(0, sentences, 10_000):
            shape = (min(10_000, sentences - start), WORDS)
            for row in rng.choice(TYPES, size=shape, p=probs / probs.sum()).tolist():
                file.write(" ".join([types[i] for i in row]) + "\n")


def loop_count(source: Path) -> Counter:
    """Word counts, line by line."""
    counts = Counter()
    with open(source, encoding="utf-8") as lines:
        for line in lines:
            counts.update(line.split())
    return counts


def loop_line(words: list[str], options: NoiseOptions, types, cumulative) -> list[str]:
    """One line: the shortest code for one operation, one random number per word for several."""
    draw = random.random
    if options.total == options.delete:
        return [word for word in words if draw() >= options.delete] or [random.choice(words)]
    if options.total == options.swap:
        for i in range(len(words) - 1):
            if draw() < options.swap:
                words[i], words[i + 1] = words[i + 1], words[i]
        return words
    kept, swapping = [], []
    for word in words:
        drawn = draw()
        if drawn < options.delete:
            continue
        if drawn < options.delete + options.substitute:
            old = word
            while word == old:
                word = random.choices(types, cum_weights=cumulative)[0]
        kept.append(word)
        swapping.append(options.delete + options.substitute <= drawn < options.total)
    if options.swap:
        for i in range(len(kept) - 1):
            if swapping[i]:
                kept[i], kept[i + 1] = kept[i + 1], kept[i]
    return kept or [random.choice(words)]


def loop_noise(source: Path, out: Path, options: NoiseOptions, counts: Counter) -> None:
    """The loop over a file."""
    types, cumulative = list(counts), list(accumulate(counts.values()))
    with open(source, encoding="utf-8") as lines, open(out, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(" ".join(loop_line(line.split(), options, types, cumulative)) + "\n")


def our_noise(source: Path, out: Path, noisy: NoisySide) -> None:
    """What the command does between reading and writing."""
    with open(out, "wb") as file:
        for _, noised in noisy.noise(read_blocks(source, BLOCK_LINES)):
            file.write(noised.data.data)


def seconds(function, *arguments) -> float:
    """CPU time of a call."""
    started = time.process_time()
    function(*arguments)
    return time.process_time() - started


def compare(folder: Path, sentences: int, rounds: int) -> None:
    """Print the table."""
    source, out = folder / "text", folder / "out"
    generate(source, sentences, 1)
    counts = loop_count(source)
    times = {"counting words": ([], [])} | {name: ([], []) for name in MIXES}
    for _ in range(rounds):
        for name, (loop, ours) in times.items():
            options = NoiseOptions(**MIXES.get(name, {"substitute": 0.1}))
            noisy = NoisySide(TextLevel(options), seed=1, side="source")
            counting = seconds(noisy.count, read_blocks(source, BLOCK_LINES), "text")
            if name in MIXES:
                loop.append(seconds(loop_noise, source, out, options, counts))
                ours.append(seconds(our_noise, source, out, noisy))
            else:
                loop.append(seconds(loop_count, source))
                ours.append(counting)
    print(
        f"{sentences:,} lines of {WORDS} words, {source.stat().st_size / 1e6:.0f} MB, {len(counts):,} different words, "
        "one core"
    )
    print(f"{'':18}{'loop':>10}{'ours':>10}{'ratio':>8}{'lines per second':>17}")
    for name, (loop, ours) in times.items():
        slow, fast = median(loop), median(ours)
        print(f"{name:18}{slow:8.2f} s{fast:8.2f} s{slow / fast:8.2f}{sentences / fast:17,.0f}")


def measure_memory(folder: Path, pairs: int) -> None:
    """Print time and peak memory of the whole command."""
    for seed, lang in enumerate(("de", "en")):
        generate(folder / f"text.{lang}", pairs, seed)
    words = ["noise", "--prefix", folder / "text", "--out", folder / "noisy", "-s", "de", "-t", "en", "--side", "both"]
    words += ["--delete", "0.1", "--substitute", "0.1", "--swap", "0.1"]
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "fairseq_kd.cli.main", *map(str, words)], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{pairs:,} pairs in {time.monotonic() - started:.0f} s, peak memory {peak:,.0f} MB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, metavar="PAIRS")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.memory:
            measure_memory(Path(folder), args.memory)
        else:
            compare(Path(folder), args.sentences, args.rounds)


if __name__ == "__main__":
    main()
