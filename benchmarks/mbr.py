"""How fast is minimum Bayes risk over n-best lists against a loop over sacreBLEU, and against the package fastchrf?

Usage: python benchmarks/mbr.py TEXT [--sentences 200] [--sizes 5 20 50] [--rounds 3] [--loop-sentences 20]

TEXT: a file of sentences, plain or compressed by gzip. Each n-best list is a sentence with up to four random changes of
words. The programs take turns, each on lists that nobody has seen before, so no cache of a tokeniser is warm. Printed:
CPU milliseconds per list on one core (median of the rounds), the ratios, and the largest difference of the utilities.
The loop is one call of sacreBLEU per pair, on the first --loop-sentences lists. fastchrf has chrF alone; it is what the
package mbrs calls for it.
"""

import argparse
import gzip
import os
import random
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # of fastchrf
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from fairseq_kd.scoring.pairwise import Pairwise, sentence_metric
from fairseq_kd.scoring.score import PLAIN


def n_best(sentence: str, size: int, words: list[str], rng: random.Random) -> list[str]:
    """Variants of a sentence."""
    found = []
    for _ in range(size):
        variant = sentence.split()
        for _ in range(rng.randint(0, 4)):
            at, kind = rng.randrange(len(variant)), rng.random()
            if kind < 0.4:
                variant[at] = rng.choice(words)
            elif kind < 0.7 and len(variant) > 2:
                variant.pop(at)
            else:
                variant.insert(at, variant[at])
        found.append(" ".join(variant))
    return found


def timed(function) -> tuple[float, list]:
    """(CPU seconds, result)."""
    start = time.process_time()
    found = list(function())
    return time.process_time() - start, found


def by_loop(metric: str, groups: list[list[str]]) -> list[np.ndarray]:
    """Expected utilities, one call of sacreBLEU per pair."""
    score = sentence_metric(metric, PLAIN)
    return [np.array([np.mean([score(text, other) for other in group]) for text in group]) for group in groups]


def by_fastchrf(groups: list[list[str]]) -> list[np.ndarray]:
    """Expected utilities by fastchrf, all lists in one call."""
    from fastchrf import pairwise_chrf

    return [np.mean(scores, axis=1) for scores in pairwise_chrf(groups, groups)]


def compare(metric: str, size: int, args, sentences: list[str], words: list[str], rng: random.Random) -> None:
    """Print one line."""
    programs = {"ours": lambda groups: Pairwise(metric, PLAIN).expected(groups)}
    if metric == "chrf":
        programs["fastchrf"] = by_fastchrf
    programs["loop"] = lambda groups: by_loop(metric, groups)
    milliseconds, difference = {name: [] for name in programs}, 0.0
    for _ in range(args.rounds):
        for name, program in programs.items():
            count = args.loop_sentences if name == "loop" else args.sentences
            groups = [n_best(sentence, size, words, rng) for sentence in rng.sample(sentences, count)]
            seconds, found = timed(lambda program=program, groups=groups: program(groups))
            milliseconds[name].append(1000 * seconds / count)
            if name != "ours":
                ours = Pairwise(metric, PLAIN).expected(groups)
                difference = max(difference, *(np.abs(a - b).max() for a, b in zip(ours, found, strict=True)))
    times = {name: median(values) for name, values in milliseconds.items()}
    shown = ", ".join(f"{name} {value:.2f} ms" for name, value in times.items())
    ratios = ", ".join(f"{times[name] / times['ours']:.1f} x {name}" for name in times if name != "ours")
    print(f"{metric:5} n = {size:3}: {shown}; {ratios}; largest difference {difference:.0e}", flush=True)


def main() -> None:
    """Compare all sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 20, 50])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop-sentences", type=int, default=20)
    args = parser.parse_args()
    opened = gzip.open if args.text.suffix == ".gz" else open
    with opened(args.text, "rt", encoding="utf-8") as file:
        sentences = [line.strip() for line in file if line.strip()]
    words, rng = sorted({word for line in sentences for word in line.split()}), random.Random(1)
    print(f"{len(sentences):,} sentences, {np.mean([len(line) for line in sentences]):.0f} characters on average")
    for metric in ("chrf", "bleu"):
        for size in args.sizes:
            compare(metric, size, args, sentences, words, rng)


if __name__ == "__main__":
    main()
