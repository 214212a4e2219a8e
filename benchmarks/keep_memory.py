"""How much faster is a CPU update of fairseq-train when glibc keeps the memory of large tensors?

Usage: python benchmarks/keep_memory.py DATA_BIN [--rounds 3] [--updates 12]

Each round trains the same transformer (7 M parameters, 4,096 tokens per batch) from the same seed twice, with
FAIRSEQ_KD_KEEP_MEMORY=0 and with what the plugin does by default, in turn. Printed: seconds per update (median over
updates, the first two left out) and peak memory (resident set) of each run, and the ratios of the medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from fairseq_kd.core.paths import PACKAGE
from fairseq_kd.training.memory import SWITCH

MODEL = [
    "--arch",
    "transformer",
    "--encoder-layers",
    "3",
    "--decoder-layers",
    "3",
    "--encoder-embed-dim",
    "256",
    "--decoder-embed-dim",
    "256",
    "--encoder-ffn-embed-dim",
    "1024",
    "--decoder-ffn-embed-dim",
    "1024",
    "--encoder-attention-heads",
    "4",
    "--decoder-attention-heads",
    "4",
    "--share-all-embeddings",
    "--criterion",
    "label_smoothed_cross_entropy",
    "--label-smoothing",
    "0.1",
    "--optimizer",
    "adam",
    "--lr",
    "0.0001",
    "--max-tokens",
    "4096",
    "--cpu",
    "--num-workers",
    "0",
    "--no-save",
    "--disable-validation",
    "--log-format",
    "json",
    "--log-interval",
    "1",
]


def train(data_bin: str, updates: int, keep: bool) -> tuple[float, float]:
    """Median seconds of an update in a process of its own, and its peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "fairseq_cli.train", data_bin, *MODEL, "--max-update", str(updates)]
        words += ["--save-dir", folder, "--user-dir", str(PACKAGE)]
        environment = os.environ | {SWITCH: str(int(keep))}
        with open(f"{folder}/log", "w+", encoding="utf-8") as log:
            process = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            log.seek(0)
            lines = log.read().splitlines()
    rates = [float(json.loads(line.split("| train_inner | ")[1])["ups"]) for line in lines if "| train_inner |" in line]
    if status != 0 or len(rates) < 3:
        sys.exit(f"fairseq-train ended with status {os.waitstatus_to_exitcode(status)}:\n" + "\n".join(lines[-20:]))
    return statistics.median(1 / rate for rate in rates[2:]), usage.ru_maxrss / 1024


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_bin")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=12)
    args = parser.parse_args()
    found = {"returned": [], "kept": []}
    for _ in range(args.rounds):
        for name, runs in found.items():
            runs.append(train(args.data_bin, args.updates, keep=name == "kept"))
            print(f"memory {name:<9}{runs[-1][0]:>8.2f} s per update{runs[-1][1]:>9,.0f} MiB", flush=True)
    (before, peak_before), (after, peak_after) = (
        [statistics.median(column) for column in zip(*runs, strict=True)] for runs in found.values()
    )
    print(f"medians: kept / returned = {after / before:.2f} of the time, {peak_after / peak_before:.2f} of the memory")


if __name__ == "__main__":
    main()
