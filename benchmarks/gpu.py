"""What fairseq_kd does on a GPU: is it right, how fast is it, and where does it wait?

Usage: python benchmarks/gpu.py [--out FOLDER] [--sections NAME ...] [--minutes 8] [--commit HASH] [--dry-run [--cpu]]

Needs one CUDA device and no network: data, caches and teachers are made on the way. After each row results.json and
results.md in FOLDER hold everything so far. A section that fails is recorded, and the next one runs. Sections:

    parity      fused and readable loss; kd_word, kd_hybrid and kd_adaptive in fp32, fp16, bf16 and --amp against fp32
                on the CPU; caches, decoding and evaluation on the GPU against the CPU
    figures     milliseconds and peak memory of an update in bf16: stock cross-entropy, kd_word without teacher, cached,
                online; at V = 10k and 32k, 4k, 16k and 32k tokens, with two students
    decoding    tokens per second of `fairseq-kd cache`, sentences per second of fairseq's search and of CTranslate2
    profile     synchronisations and kernels of an update, the places that wait, the longest kernels
    loss        milliseconds and kernels of the loss layer alone

--dry-run does the same at tiny sizes, in seconds. The exit status is 1 when something failed or is out of tolerance.
"""

import argparse
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

import gpu_decoding
import gpu_figures
import gpu_loss
import gpu_parity
import gpu_profile
import torch
from gpu_data import DRY, FULL, Bench
from gpu_report import Report, describe

SECTIONS = {
    "parity": gpu_parity.measure,
    "figures": gpu_figures.measure,
    "decoding": gpu_decoding.measure,
    "profile": gpu_profile.measure,
    "loss": gpu_loss.measure,
}


def parse() -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--minutes", type=float, default=8, help="after that no row is begun (default %(default)s)")
    parser.add_argument("--commit", help="for the report, where no git repository exists")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes")
    parser.add_argument("--cpu", action="store_true", help="with --dry-run: without a GPU")
    args = parser.parse_args()
    if args.cpu and not args.dry_run:
        parser.error("--cpu has no effect without --dry-run: the sizes are made for a GPU")
    if not args.cpu and not torch.cuda.is_available():
        parser.error("no CUDA device is seen; --dry-run --cpu shows that the script runs")
    return args


def main() -> int:
    """Measure, print; 1 when something is wrong."""
    args = parse()
    device = "cpu" if args.cpu else "cuda"
    report = Report(args.out, describe(device, args.commit), 60 * args.minutes)
    logging.basicConfig(
        level=logging.INFO, handlers=[logging.NullHandler()], force=True
    )  # else fairseq prints each update
    warnings.filterwarnings("ignore")  # torch's and Hydra's deprecations of what fairseq does
    if args.cpu:
        torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory(prefix="gpu-benchmark-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # converted teachers
        bench = Bench(device, DRY if args.dry_run else FULL, Path(folder))
        for name in SECTIONS:
            if name in args.sections:
                report.run(name, SECTIONS[name], bench)
    failures = report.failures()
    for failure in failures:
        print(f"wrong: {failure}")
    print(f"wrote {args.out / 'results.json'} and results.md; {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
