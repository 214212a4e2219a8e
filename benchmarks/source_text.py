"""Time and peak memory of `fairseq-kd decode --source-text` on made-up text of any number of lines.

Usage: python benchmarks/source_text.py DATA_BIN --teacher T [--lines 10000 100000] [--interactive] [options of
fairseq-kd decode]

The words of a line are drawn from the validation sources of DATA_BIN (one of `fairseq-kd prepare`), 4 to 12 per line;
every tenth line repeats an earlier one. Each number of lines is a whole command in a process of its own. Where the
memory does not depend on the number of lines, the peaks are the same.

--interactive: no line repeats another, and after each number of lines fairseq-interactive translates the same ones, cut
into subwords before. Its --buffer-size and --max-tokens are the fastest pair of those given, on the first --tune-lines.
Give --beam and --max-len-b here: both programs get them. Printed: lines/s, peak memory, the ratio of the times, and the
share of equal hypotheses (tokens).
"""

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.corpus.subword import load_subword_models

PACKAGE = Path(__file__).resolve().parent.parent / "fairseq_kd"


def write_lines(path: Path, words: list[str], count: int, repeated: bool) -> None:
    """Write `count` lines of 4 to 12 words. repeated: every tenth one is an earlier one; else none is."""
    rng, recent, seen = random.Random(1), [], {None}
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            line = None
            while line in seen:
                line = " ".join(rng.choices(words, k=rng.randrange(4, 13)))
            if not repeated:
                seen.add(line)
            elif number % 10 == 9:
                line = rng.choice(recent)
            recent = [*recent[-99:], line]
            file.write(f"{line}\n")


def measured(command, stdin=None, stdout=subprocess.DEVNULL) -> tuple[float, float]:
    """(seconds, peak memory in MB) of a command. Ends this program when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen([*map(str, command)], stdin=stdin, stdout=stdout)
    _, status, used = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(os.waitstatus_to_exitcode(status))
    return time.perf_counter() - started, used.ru_maxrss / 1000


def decode(args, further, text: Path, out: Path) -> float:
    """fairseq-kd decode; print its line, return its seconds."""
    command = [sys.executable, "-m", "fairseq_kd.cli.main", "decode", "--source-text", text, "--like", args.data_bin]
    command += ["--teacher", args.teacher, "--teacher-data", args.data_bin, "--out", out, *further]
    seconds, peak = measured(command)
    pairs, lines = read_manifest(out)["pairs"], int(text.name.removeprefix("text-"))
    print(
        f"{lines:>9,} lines, {pairs:>9,} pairs: {seconds:7.1f} s, {pairs / seconds:7.1f} pairs/s, peak {peak:6.0f} MB",
        flush=True,
    )
    return seconds


def interactive(args, text: Path, out: Path, buffer: int, tokens: int) -> tuple[float, float]:
    """fairseq-interactive; (seconds, peak memory in MB)."""
    command = [sys.executable, "-m", "fairseq_cli.interactive", args.data_bin, "--path", args.teacher, "--cpu"]
    command += ["--user-dir", PACKAGE, *args.same, "--buffer-size", buffer]
    with open(text) as lines, open(out, "w") as log:
        return measured([*command, "--max-tokens", tokens], lines, log)


def compare(args, text: Path, out: Path, seconds: float) -> None:
    """Tune fairseq-interactive, run it on the same lines, and print its line."""
    source, target = (read_manifest(args.data_bin)[f"{side}_lang"] for side in ("source", "target"))
    model = load_subword_models(args.data_bin, source, target)[source]
    lines = [model.encode(line) for line in text.read_text(encoding="utf-8").splitlines()]
    pieces, few = text.with_suffix(".pieces"), text.with_suffix(".few")
    for path, part in ((pieces, lines), (few, lines[: args.tune_lines])):
        path.write_text("".join(f"{line}\n" for line in part), encoding="utf-8")
    tried = {
        pair: interactive(args, few, text.with_suffix(".log"), *pair)[0]
        for pair in itertools.product(args.buffer_size, args.max_tokens)
    }
    for (buffer, tokens), taken in tried.items():
        print(f"    {args.tune_lines:,} lines by fairseq-interactive, buffer {buffer}, {tokens} tokens: {taken:.1f} s")
    best = min(tried, key=tried.get)
    taken, peak = interactive(args, pieces, text.with_suffix(".log"), *best)
    rows = [line.split("\t") for line in text.with_suffix(".log").read_text().splitlines() if line.startswith("H-")]
    theirs = {int(name[2:]): tokens for name, _, tokens in rows}
    rows = [line.split("\t") for line in next(out.glob("*.tsv")).read_text().splitlines()]
    ours = {int(row[0]): row[5] for row in rows if row[2] == "*"}
    assert len(ours) == len(theirs) == len(lines), "a line was dropped"
    same = sum(theirs[number] == tokens for number, tokens in ours.items()) / len(ours)
    print(
        f"{len(lines):>9,} lines by fairseq-interactive, buffer {best[0]}, {best[1]} tokens: {taken:7.1f} s, "
        f"{len(lines) / taken:7.1f} lines/s, peak {peak:6.0f} MB; decode is {taken / seconds:.2f} x as fast, "
        f"{same:.2%} same hypotheses",
        flush=True,
    )


def main() -> None:
    """Make the text, decode it, print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_bin", type=Path)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--lines", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--interactive", action="store_true")
    parser.add_argument("--tune-lines", type=int, default=2000)
    parser.add_argument("--buffer-size", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--max-tokens", type=int, nargs="+", default=[2000, 4000, 12_000])
    parser.add_argument("--beam", type=int)
    parser.add_argument("--max-len-b", type=int)
    args, further = parser.parse_known_args()
    options = {"--beam": args.beam, "--max-len-b": args.max_len_b}
    args.same = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    further += args.same
    source = read_manifest(args.data_bin)["source_lang"]
    words = (args.data_bin / "raw" / f"valid.{source}").read_text(encoding="utf-8").split()
    print(f"{len(os.sched_getaffinity(0))} cores, decode {' '.join(further)}")
    with tempfile.TemporaryDirectory() as scratch:
        for count in args.lines:
            text, out = Path(scratch) / f"text-{count}", Path(scratch) / f"out-{count}"
            write_lines(text, words, count, repeated=not args.interactive)
            seconds = decode(args, further, text, out)
            if args.interactive:
                compare(args, text, out, seconds)


if __name__ == "__main__":
    main()
