"""How good are the translations that `fairseq-kd decode --select` chooses? BLEU and chrF against the gold targets.

Usage: python benchmarks/selection.py DATA_BIN --teacher T [--subset test] [--sizes 8 20] [options of fairseq-kd decode]

best: the most probable hypothesis of a beam. closest: the one of the n-best that is closest to the gold target, which
shows how much the n-best could give at most. mbr: minimum Bayes risk, of the n-best or of samples. one sample: the
first sample. Each line is a whole command of `fairseq-kd decode`.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fairseq_kd.artifacts.data_bin import load_side
from fairseq_kd.corpus.subword import subword_decoder
from fairseq_kd.scoring.score import choose_scorer
from fairseq_kd.teacher.ensemble import open_teachers


def variants(sizes: list[int]) -> dict[str, list]:
    """The name of each line and its options."""
    beam, sample = ["--strategy", "beam", "--beam"], ["--strategy", "sample", "--nbest"]
    found = {"best, beam 5": [*beam, 5], "one sample": [*sample, 1]}
    for size in sizes:
        found[f"best, beam {size}"] = [*beam, size]
        for metric in ("bleu", "chrf"):
            chosen = ["--nbest", size, "--metric", metric, "--select"]
            found[f"closest by {metric}, beam {size}"] = [*beam, size, *chosen, "closest"]
            found[f"mbr by {metric}, beam {size}"] = [*beam, size, *chosen, "mbr"]
            found[f"mbr by {metric}, {size} samples"] = ["--strategy", "sample", *chosen, "mbr"]
    return found


def chosen_of(path: Path) -> dict[int, str]:
    """Sentence number -> tokens of the hypothesis that was chosen."""
    rows = (line.rstrip("\n").split("\t") for line in path.open(encoding="utf-8"))
    return {int(row[0]): row[-1] for row in rows if row[2] == "*"}


def main() -> None:
    """Decode in all ways and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_bin", type=Path)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--subset", default="test")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 20])
    args, further = parser.parse_known_args()
    task = open_teachers(args.data_bin, args.teacher, args.subset, data=args.data_bin).task
    source, target = task.cfg.source_lang, task.cfg.target_lang
    join = subword_decoder(args.data_bin, target, None)[1]
    gold = load_side(args.data_bin / f"{args.subset}.{source}-{target}.{target}", task.target_dictionary)
    gold = [join(task.target_dictionary.string(line)) for line in gold]
    scorer = choose_scorer(target, None, gold)
    print(f"{len(gold):,} sentences")
    for name, options in variants(args.sizes).items():
        with tempfile.TemporaryDirectory() as scratch:
            out, started = Path(scratch) / "out", time.perf_counter()
            command = [sys.executable, "-m", "fairseq_kd.cli.main", "decode", args.data_bin, "--teacher", args.teacher]
            command += ["--subset", args.subset, "--fallback", "error", "--out", out, *options, *further]
            subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            chosen = chosen_of(out / f"{args.subset}.hypotheses.{target}.tsv")
            lines = [join(chosen[number]) for number in range(len(gold))]
        bleu, chrf = (scorer.score_by(metric, lines, gold)["score"] for metric in ("bleu", "chrf"))
        print(f"{name:28}{bleu:8.2f} BLEU{chrf:8.2f} chrF{seconds:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
