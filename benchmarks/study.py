"""What a study saves by sharing stages, and whether it survives being killed.

    python benchmarks/study.py SPEC WORK [--kills 20]

Runs the study in WORK/plain. Prints the seconds of its stages, those that its cells would take alone (each stage as
often as cells need it), and how often each stage was begun. With --kills it is run in WORK/killed too, where it is
killed with SIGKILL so often, each time after it has begun and a time drawn so that the kills spread over what the plain
run took; what ran at that moment is printed, and the results are compared.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from fairseq_kd.study.state import is_running

UNCOUNTED = ("checkpoint", "data_bin", "reference", "checkpoint_sha256", "seconds", "efficiency")  # paths, bytes, times


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec")
    parser.add_argument("work", type=Path)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    started = time.time()
    run(args.spec, args.work / "plain")
    wall = time.time() - started
    print_shares(args.work / "plain", wall)
    if args.kills:
        begin = min(path.stat().st_mtime for path in (args.work / "plain").glob("stages/*/.lock")) - started
        draw = random.Random(args.seed)
        moments = [begin + draw.uniform(0, 2 * (wall - begin) / args.kills) for _ in range(args.kills)]
        running = [run(args.spec, args.work / "killed", moment) for moment in moments]
        killed = [names for names in running if names is not None]
        run(args.spec, args.work / "killed")
        print(f"killed {len(killed)} times, {Counter(name for names in killed for name in names)} at work; finished")
        compare(args.work / "plain", args.work / "killed")


def run(spec: str, work: Path, seconds: float | None = None) -> list[str] | None:
    """Run or continue the study; after the given seconds kill it. Return the kinds of stages that were at work then."""
    words = [sys.executable, "-m", "fairseq_kd.cli.main", "study", "run", spec, "--out", str(work)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            kinds = [folder.name.split("-")[0] for folder in work.glob("stages/*") if is_running(folder)]
            os.kill(process.pid, signal.SIGKILL)
            return kinds
    if status != 0:
        sys.exit(f"the study ended with status {status}")
    return None


def print_shares(work: Path, wall: float) -> None:
    """Seconds with and without sharing, and how often stages were begun."""
    results = json.loads((work / "results.json").read_text())
    seconds, begun = {}, {}
    for name in results["commands"]:
        seconds[name] = json.loads((work / "stages" / name / "done.json").read_text())["seconds"]
        log = (work / "stages" / name / "log.txt").read_text()
        begun[name] = log.count(" fairseq-kd ") if "train" not in log.split()[2] else log.count(" fairseq-train ")
    needed = [cell["stages"] for cell in results["cells"]]
    together = sum(seconds[name] for name in set().union(*needed))
    alone = sum(seconds[name] for names in needed for name in names)
    print(f"{len(needed)} cells, {len(seconds)} stages, wall {wall:.0f} s; each stage begun: {Counter(begun.values())}")
    print(f"stages of the cells: {together:.0f} s; of the cells alone: {alone:.0f} s; ratio {together / alone:.2f}")


def compare(plain: Path, killed: Path) -> None:
    """Every result.json of the two studies, but for paths, hashes of files with times in them, and times."""
    names = [path.relative_to(plain) for path in sorted(plain.glob("stages/*/result.json"))]
    for name in names:
        one, other = (json.loads((work / name).read_text()) for work in (plain, killed))
        for key in one.keys() - set(UNCOUNTED):
            if one[key] != other[key]:
                sys.exit(f"{name} differs in {key}")
    print(f"{len(names)} results are the same")


if __name__ == "__main__":
    main()
