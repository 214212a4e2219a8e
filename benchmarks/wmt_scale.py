"""Noise and a share of a teacher cache on a corpus of any size, and by them what a whole distillation would take.

    python benchmarks/wmt_scale.py DATA_BIN WORK [--shard 0/100] [--cached ARCH] [--teacher ARCH] [--student ARCH]

DATA_BIN is a data-bin of `fairseq-kd prepare`, such as the output of benchmarks/prepare_scale.py --pairs 4500000. Each
command runs in a process of its own; printed are its CPU seconds and its peak memory. The teacher is untrained: what it
costs does not depend on what it has learned. Then a table: how long the whole work takes on one core of this machine,
at the operations a second that the cache ran at, and on one GPU and on eight at --tflops, which is an ASSUMPTION and
not a measurement (100 is a third of what an A100 promises in bfloat16; decoding, which waits for memory, at a tenth of
that). Operations are counted as by `fairseq-kd count`, a training step three times a forward pass.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "fairseq_kd"
K, BEAM, DECODING_EFFICIENCY, GPUS = 8, 5, 0.1, (1, 8)


def run(label: str, *words) -> dict:
    """Run a command; print and return its seconds, CPU seconds and peak memory."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *map(str, words)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{label} ended with status {os.waitstatus_to_exitcode(status)}")
    found = {
        "seconds": time.monotonic() - started,
        "cpu": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1000,
    }
    print(f"{label:<34}{found['seconds']:9,.0f} s{found['cpu']:9,.0f} CPU s{found['peak_mb']:9,.0f} MB", flush=True)
    return found


def train_nothing(data_bin, arch: str, folder: Path) -> Path:
    """The checkpoint of a model after one update, in `folder`."""
    options = f"--user-dir {PACKAGE} --arch {arch} --optimizer adam --lr 0.0001 --max-tokens 2000 --max-update 1"
    options += f" --train-subset valid --disable-validation --cpu --num-workers 0 --save-dir {folder}"
    if not (folder / "checkpoint_last.pt").is_file():
        run(f"one update of {arch}", "fairseq_cli.train", data_bin, *options.split())
    return folder / "checkpoint_last.pt"


def operations(data_bin, arch: str, length: int) -> dict[str, float]:
    """Of a forward pass for a target token: {"encoder", "decoder", "output projection"}."""
    words = ["count", "--arch", arch, "--data", data_bin, "--length", length]
    command = [sys.executable, "-m", "fairseq_kd.cli.main", *map(str, words)]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split("parameters")[1]
    return {
        side: float(re.search(rf"^{side} +([\d,]+)$", printed, re.M)[1].replace(",", ""))
        for side in ("encoder", "decoder", "output projection")
    }


def works(tokens: int, passes: int, teacher: dict, student: dict) -> dict[str, tuple[float, float]]:
    """Name -> (operations, share of the assumed speed of a GPU)."""
    decoding = teacher["encoder"] + BEAM * (teacher["decoder"] + teacher["output projection"])
    return {
        f"train the teacher, {passes} passes": (3.0 * passes * tokens * sum(teacher.values()), 1),
        f"cache it, k = {K}": (tokens * sum(teacher.values()), 1),
        f"decode with it, beam {BEAM}": (tokens * decoding, DECODING_EFFICIENCY),
        f"train a student, {passes} passes": (3.0 * passes * tokens * sum(student.values()), 1),
    }


def main() -> None:
    """Measure, extrapolate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_bin", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--cached", default="kd_student_9m", help="architecture whose cache is measured")
    parser.add_argument("--teacher", default="transformer", help="architecture of the table")
    parser.add_argument("--student", default="kd_student_17m", help="architecture of the table")
    parser.add_argument("--shard", default="0/100")
    parser.add_argument("--passes", type=int, default=10, help="over the training data")
    parser.add_argument("--tflops", type=float, default=100, help="assumed of a GPU, 10^12 operations a second")
    args = parser.parse_args()
    data_bin, work = args.data_bin, args.work
    noise = ("--delete", 0.1, "--substitute", 0.1, "--swap", 0.1)
    run("noise", "fairseq_kd.cli.main", "noise", "--data-bin", data_bin, "--out", work / "noisy", *noise)
    checkpoint = train_nothing(data_bin, args.cached, work / args.cached)
    words = ["cache", work / "noisy", "--teacher", checkpoint, "--top-k", K, "--cpu", "--shard", args.shard]
    cached = run(f"cache of {args.cached}, {args.shard}", "fairseq_kd.cli.main", *words, "--out", work / "cache")
    extrapolate(args, cached["cpu"])


def extrapolate(args, cpu_seconds: float) -> None:
    """Print the table. cpu_seconds: of the share of the cache."""
    sentences, tokens = target_tokens(args.data_bin)
    length, shares = round(tokens / sentences), int(args.shard.split("/")[1])
    cached, teacher, student = (operations(args.data_bin, a, length) for a in (args.cached, args.teacher, args.student))
    rate = tokens / shares * sum(cached.values()) / cpu_seconds
    print(f"{sentences:,} sentences, {tokens:,} target tokens; a share is {tokens / shares:,.0f} of them, computed at")
    print(f"{rate / 1e9:.1f} x 10^9 operations a CPU second, with loading, checking and fitting the tail shapes")
    print(f"{tokens * (4 * K + 2 + 1 + 2) / 1e9:.1f} GB for all of the cache at one temperature, with tail shapes")
    print(f"teacher {args.teacher}: {sum(teacher.values()) / 1e6:.0f} M operations a target token, student "
          f"{args.student}: {sum(student.values()) / 1e6:.0f} M; hours:")  # fmt: skip
    print(f"{'':<34}{'a core, measured rate':>23}" + "".join(f"{f'{n} GPU, assumed':>17}" for n in GPUS))
    for name, (count, efficiency) in works(tokens, args.passes, teacher, student).items():
        seconds = [count / (args.tflops * 1e12 * efficiency * gpus) for gpus in GPUS]
        print(f"{name:<34}{count / rate / 3600:23,.0f}" + "".join(f"{value / 3600:17,.2f}" for value in seconds))


def target_tokens(data_bin: Path) -> tuple[int, int]:
    """(sentences, tokens with EOS) of the target side of the training set."""
    from fairseq.data.indexed_dataset import MMapIndexedDataset  # late: a child's peak begins at its parent's size

    manifest = json.loads((data_bin / "manifest.json").read_text())
    source, target = manifest["source_lang"], manifest["target_lang"]
    dataset = MMapIndexedDataset(str(data_bin / f"train.{source}-{target}.{target}"))  # its sizes end with it
    return len(dataset), int(dataset.sizes.sum())


if __name__ == "__main__":
    main()
