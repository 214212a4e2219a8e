"""Time and peak memory of `fairseq-kd decode --source-text` on made-up text of any number of lines.

Usage: python benchmarks/source_text.py DATA_BIN --teacher T [--lines 10000 100000] [options of fairseq-kd decode]

The words of a line are drawn from the validation sources of DATA_BIN (one of `fairseq-kd prepare`), 4 to 12 per line;
every tenth line repeats an earlier one. Each number of lines is a whole command in a process of its own. Where the
memory does not depend on the number of lines, the peaks are the same.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fairseq_kd.artifacts.manifest import read_manifest


def write_lines(path: Path, words: list[str], count: int) -> None:
    """Write `count` lines of 4 to 12 words."""
    rng, recent = random.Random(1), []
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            line = " ".join(rng.choices(words, k=rng.randrange(4, 13)))
            if number % 10 == 9:
                line = rng.choice(recent)
            recent = [*recent[-99:], line]
            file.write(f"{line}\n")


def main() -> None:
    """Make the text, decode it, print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_bin", type=Path)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--lines", type=int, nargs="+", default=[10_000, 100_000])
    args, further = parser.parse_known_args()
    source = read_manifest(args.data_bin)["source_lang"]
    words = (args.data_bin / "raw" / f"valid.{source}").read_text(encoding="utf-8").split()
    print(f"{len(os.sched_getaffinity(0))} cores, decode {' '.join(further)}")
    with tempfile.TemporaryDirectory() as scratch:
        for count in args.lines:
            text, out = Path(scratch) / f"text-{count}", Path(scratch) / f"out-{count}"
            write_lines(text, words, count)
            command = [sys.executable, "-m", "fairseq_kd.cli.main", "decode", "--source-text", text, "--like"]
            command += [args.data_bin, "--teacher", args.teacher, "--teacher-data", args.data_bin, "--out", out]
            started = time.perf_counter()
            process = subprocess.Popen([*map(str, command), *further], stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            if status != 0:
                sys.exit(os.waitstatus_to_exitcode(status))
            found = read_manifest(out)
            print(
                f"{count:>9,} lines, {found['pairs']:>9,} pairs: {seconds:7.1f} s, {found['pairs'] / seconds:7.1f} "
                f"pairs/s, peak {used.ru_maxrss / 1000:6.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
