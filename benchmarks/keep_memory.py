"""How much faster is a CPU update of fairseq-train when glibc keeps the memory of large tensors?

Usage: python benchmarks/keep_memory.py DATA_BIN [--rounds 3] [--updates 12]

Each round trains the same transformer (7 M parameters, 4,096 tokens per batch) from the same seed twice, without and
with the two variables that the quickstart sets, in turn. Printed: seconds per update (median over updates, the first
two left out) of each run, and the ratio of the medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from fairseq_kd.training.run import KEEP_MEMORY

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


def seconds_an_update(data_bin: str, updates: int, environment: dict) -> float:
    """Median time of an update in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "fairseq_cli.train", data_bin, *MODEL, "--max-update", str(updates)]
        words += ["--save-dir", folder]
        result = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True)
    lines = (result.stdout + result.stderr).splitlines()
    rates = [float(json.loads(line.split("| train_inner | ")[1])["ups"]) for line in lines if "| train_inner |" in line]
    if len(rates) < 3:
        sys.exit(f"fairseq-train ended with status {result.returncode}:\n{result.stderr[-2000:]}")
    return statistics.median(1 / rate for rate in rates[2:])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_bin")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=12)
    args = parser.parse_args()
    times = {"as it is": [], "memory kept": []}
    for _ in range(args.rounds):
        for name, environment in (("as it is", {}), ("memory kept", KEEP_MEMORY)):
            times[name].append(seconds_an_update(args.data_bin, args.updates, environment))
            print(f"{name:<12} {times[name][-1]:.2f} s an update", flush=True)
    before, after = (statistics.median(times[name]) for name in ("as it is", "memory kept"))
    print(f"median       {before:.2f} s against {after:.2f} s: {before / after:.2f} times as fast")


if __name__ == "__main__":
    main()
