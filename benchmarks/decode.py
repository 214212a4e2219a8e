"""How fast is training data made, and is it the same? fairseq-generate against the backends of `fairseq-kd decode`.

Usage: python benchmarks/decode.py DATA_BIN --teacher T [--subset train] [--beam 5] [--max-tokens 2000 4000 12000]

Each is a whole command in a process of its own, one after the other: loading, decoding, writing. fairseq-generate is
first run with each --max-tokens on the subset `test`, and then with the fastest. Printed for each: seconds,
sentences/s, the ratio to fairseq-generate, hypotheses that are the same as its own (tokens), and BLEU against the gold
targets. DATA_BIN must be one of `fairseq-kd prepare`, which says how subwords are joined. The conversion for
CTranslate2 is done before.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fairseq_kd.corpus.subword import subword_decoder
from fairseq_kd.scoring.score import choose_scorer
from fairseq_kd.sequence.ctranslate2_backend import convert
from fairseq_kd.teacher.ensemble import open_teachers

PACKAGE = Path(__file__).resolve().parent.parent / "fairseq_kd"
SYSTEMS = {
    "backend fairseq": ["--backend", "fairseq"],
    "ctranslate2 float32": ["--backend", "ctranslate2"],
    "ctranslate2 int8": ["--backend", "ctranslate2", "--dtype", "int8"],
}


def timed(words, log: Path) -> float:
    """Run a command with its output in `log`; return its seconds."""
    started = time.perf_counter()
    with open(log, "w") as out:
        subprocess.run([str(word) for word in words], stdout=out, stderr=subprocess.STDOUT, check=True)
    return time.perf_counter() - started


def generate(args, subset: str, max_tokens: int, log: Path) -> float:
    """fairseq-generate; return its seconds."""
    words = [sys.executable, "-m", "fairseq_cli.generate", args.data_bin, "--path", args.teacher, "--cpu"]
    words += ["--user-dir", PACKAGE, "--gen-subset", subset, "--beam", args.beam, "--max-tokens", max_tokens]
    return timed([*words, "--required-batch-size-multiple", 1, "--num-workers", 0], log)


def generated(log: Path) -> list[str]:
    """Hypotheses of fairseq-generate in the order of the corpus."""
    lines = [line.split("\t") for line in log.read_text().splitlines() if line.startswith("H-")]
    found = {int(name[2:]): tokens for name, _, tokens in lines}
    return [found[number] for number in range(len(found))]


def decoded(folder: Path) -> list[str]:
    """Chosen hypotheses of `fairseq-kd decode`."""
    lines = [line.split("\t") for line in next(folder.glob("*.tsv")).read_text().splitlines()]
    return [line[5] for line in lines if line[2] == "*"]


def main() -> None:
    """Run all, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_bin")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--subset", default="train")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, nargs="+", default=[2000, 4000, 12000])
    args = parser.parse_args()
    teachers = open_teachers(args.data_bin, args.teacher, args.subset, data=args.data_bin)
    convert(teachers)
    join = subword_decoder(args.data_bin, teachers.task.cfg.target_lang, None)[1]
    symbols = teachers.task.target_dictionary.symbols
    gold = [join(" ".join(symbols[token] for token in row[:-1])) for row in teachers.dataset.tgt]
    scorer = choose_scorer(teachers.task.cfg.target_lang, None, gold)
    print(f"{args.subset}: {len(gold):,} sentences, beam {args.beam}, {len(os.sched_getaffinity(0))} cores")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        tried = {size: generate(args, "test", size, scratch / "log") for size in args.max_tokens}
        best = min(tried, key=tried.get)
        print("fairseq-generate on test: " + ", ".join(f"{s:.1f} s with --max-tokens {n}" for n, s in tried.items()))
        baseline = generate(args, args.subset, best, scratch / "log")
        theirs = generated(scratch / "log")
        report("fairseq-generate", baseline, baseline, theirs, theirs, gold, join, scorer)
        for name, options in SYSTEMS.items():
            out = scratch / name.replace(" ", "-")
            words = [sys.executable, "-m", "fairseq_kd.cli.main", "decode", args.data_bin, "--teacher", args.teacher]
            words += ["--teacher-data", args.data_bin, "--subset", args.subset, "--beam", args.beam, "--cpu"]
            seconds = timed([*words, "--out", out, *options], scratch / "log")
            report(name, seconds, baseline, decoded(out), theirs, gold, join, scorer)


def report(name, seconds, baseline, ours, theirs, gold, join, scorer) -> None:
    """One line of the table."""
    same = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(theirs)
    bleu = scorer.score_by("bleu", [join(line) for line in ours], gold)["score"]
    rate = len(gold) / seconds
    print(f"{name:22}{seconds:9.1f} s{rate:9.1f} /s{baseline / seconds:8.2f} x{100 * same:9.2f} % same{bleu:8.2f} BLEU")


if __name__ == "__main__":
    main()
