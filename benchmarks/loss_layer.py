"""Seconds and peak memory of the loss layer: features -> loss and gradients of features and output projection.

Usage: python benchmarks/loss_layer.py [--tokens 4096] [--rounds 7] [--device cpu] [--dtype float32]

Compared in one run, the variants in turn in every round, medians over rounds:

- stock CE: fairseq's label_smoothed_cross_entropy (matrix product, log-softmax in float32, label smoothing)
- usual online KD: the same and the textbook teacher's term at temperature 2 from a teacher's logits, every step an
  array of N x V
- fused CE, fused cached KD (k = 16), fused online KD, and the reference implementation of cached KD
- fused cached KD with 64 tail shapes, as `fairseq-kd cache` makes them unless told otherwise
- fused CE and fused cached KD as --autocast bfloat16 computes them
- the limit: the three matrix products of any exact loss layer, into buffers that exist, in float32 and bfloat16

Memory is the growth of the process's peak while a variant runs, each in a process of its own (on CUDA: of the
allocator's peak). The teacher's logits or features are given, not computed, but for fused online KD, which makes the
teacher's logits from its features: that is a fourth matrix product.
"""

import argparse
import ctypes
import dataclasses
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

from fairseq_kd.loss.fused import fused_loss
from fairseq_kd.loss.objective import Objective, reference_losses
from fairseq_kd.loss.signal import DenseSignal

SIZES = {"V = 10,000, d = 256": (10_000, 256), "V = 32,000, d = 512": (32_000, 512)}
OBJECTIVE = Objective(kd_weight=0.5, label_smoothing=0.1)


class Layer:
    """Inputs of one size and the variants that are compared."""

    def __init__(self, tokens, size, device, dtype):
        vocabulary, width = SIZES[size]
        generator = torch.Generator().manual_seed(1)

        def random(*shape):
            return torch.randn(*shape, generator=generator).to(device, dtype)

        self.x, self.w = random(tokens, width).requires_grad_(), (random(vocabulary, width) * 0.05).requires_grad_()
        self.target = torch.randint(0, vocabulary, (tokens,), generator=generator).to(device)
        self.buffers = {kind: self._buffers(kind) for kind in (dtype, torch.bfloat16)}
        self.teacher_x, self.teacher_w = random(tokens, width), random(vocabulary, width) * 0.05

    def _buffers(self, dtype):
        """For `multiply`: logits, gradients of features and projection, features, projection."""
        shapes = (512, len(self.w)), self.x.shape, self.w.shape
        empty = [torch.zeros(shape, dtype=dtype, device=self.x.device) for shape in shapes]
        return *empty, self.x.detach().to(dtype), self.w.detach().to(dtype)

    def signal(self, variant):
        """What a variant gets from the teacher; not timed."""
        if variant == "usual online KD":
            return self.teacher_x @ self.teacher_w.t()
        dense = DenseSignal(self.teacher_x, self.teacher_w)
        if "cached" not in variant:
            return dense if "online" in variant else None
        return self.shaped(dense.truncate(16)) if "shapes" in variant else dense.truncate(16)

    def shaped(self, signal):
        """With one of 64 tail shapes a token; which ones does not change the time."""
        shapes = torch.log_softmax(torch.randn(64, len(self.w), device=self.w.device), dim=-1)
        return dataclasses.replace(
            signal, shapes=shapes, shape_ids=torch.arange(len(signal), device=self.w.device) % 64
        )

    @torch.no_grad()
    def multiply(self, dtype):
        """z = x Wᵀ, dX = z W, dW = zᵀ x, 512 rows at a time."""
        z, dx, dw, x, w = self.buffers[dtype]
        for start in range(0, len(x), 512):
            rows = slice(start, start + 512)
            part = z[: len(x[rows])]
            torch.mm(x[rows], w.t(), out=part)
            torch.mm(part, w, out=dx[rows])
            dw.addmm_(part.t(), x[rows])

    def run(self, variant, signal):
        """Forward and backward."""
        self.x.grad = self.w.grad = None
        if variant.startswith("limit"):
            self.multiply(torch.bfloat16 if "bfloat16" in variant else self.x.dtype)
        else:
            self.loss(variant, signal).backward()

    def loss(self, variant, signal):
        """Forward. What it does not return is freed before the backward pass, as in a criterion of fairseq."""
        if variant.startswith("fused"):
            narrow = torch.bfloat16 if "bfloat16" in variant else None
            return fused_loss(self.x, self.w, self.target, signal, OBJECTIVE, narrow).loss
        logits = self.x @ self.w.t()
        lprobs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        if variant == "reference cached KD":
            return reference_losses(lprobs, self.target, signal, OBJECTIVE).loss.sum()
        loss, _ = label_smoothed_nll_loss(lprobs, self.target, 0.1, ignore_index=1)
        if variant == "usual online KD":
            student = torch.log_softmax(logits / 2, dim=-1, dtype=torch.float32)
            teacher = torch.softmax(signal / 2, dim=-1, dtype=torch.float32)
            kd = torch.nn.functional.kl_div(student, teacher, reduction="none")
            loss = 0.5 * loss + 0.5 * 4 * kd.sum()
        return loss


VARIANTS = ("stock CE", "usual online KD", "reference cached KD", "fused CE", "fused cached KD", "fused online KD")
VARIANTS += ("fused cached KD, tail shapes", "limit: matrix products")
VARIANTS += ("fused CE, bfloat16", "fused cached KD, bfloat16", "limit: products, bfloat16")


def synchronise(device):
    """Wait for CUDA."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(args, size) -> dict:
    """Median seconds of each variant."""
    layer, times = Layer(args.tokens, size, args.device, getattr(torch, args.dtype)), {name: [] for name in VARIANTS}
    signals = {name: layer.signal(name) for name in VARIANTS}
    for _ in range(args.rounds + 1):
        for name in VARIANTS:
            synchronise(args.device)
            start = time.perf_counter()
            layer.run(name, signals[name])
            synchronise(args.device)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def peak_in_own_process(args, size, variant) -> float:
    """MiB above what was there before the variant ran."""
    words = [sys.executable, __file__, "--memory-of", variant, "--size", size, "--tokens", str(args.tokens)]
    words += ["--device", args.device, "--dtype", args.dtype]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def print_peak(args) -> None:
    """In the process of its own: run one variant once and print what it added."""
    layer = Layer(args.tokens, args.size, args.device, getattr(torch, args.dtype))
    signal = layer.signal(args.memory_of)
    torch.mm(layer.x[:64].detach(), layer.w.detach().t()).sum().item()  # the libraries' own buffers
    if args.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        layer.run(args.memory_of, signal)
        print((torch.cuda.max_memory_allocated() - before) / 2**20)
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the inputs took and gave back must not be counted as there
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak; ru_maxrss would be the parent's
        before = peak_rss()
        layer.run(args.memory_of, signal)
        print(peak_rss() - before)


def peak_rss() -> float:
    """MiB, of this process."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=SIZES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print_peak(args)
        return
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, {args.dtype}, {args.tokens} tokens, median of {args.rounds} rounds")
    for size in SIZES:
        times = seconds(args, size)
        peaks = {name: peak_in_own_process(args, size, name) for name in VARIANTS}
        print(f"\n{size:<30}{'ms':>9}{'ratio':>8}{'MiB':>9}{'ratio':>8}")
        for name in VARIANTS:
            time_ratio, peak_ratio = times[name] / times["stock CE"], peaks[name] / peaks["stock CE"]
            print(f"{name:<30}{1000 * times[name]:>9.1f}{time_ratio:>8.2f}{peaks[name]:>9.0f}{peak_ratio:>8.3f}")


if __name__ == "__main__":
    main()
