"""The loss layer alone, and the kernels that it launches. Part of `gpu.py`."""

import math
import statistics
from unittest import mock

import torch
from gpu_data import Bench
from gpu_profile import on_device
from gpu_report import Section
from loss_layer import SIZES, Layer
from torch.profiler import ProfilerActivity, profile
from train_step import timed

from fairseq_kd.loss.signal import rows_at_a_time

VARIANTS = ("stock CE", "fused CE", "fused cached KD, tail shapes", "fused online KD")
LIMIT = "limit: matrix products"
STOCK = "stock CE"


def measure(bench: Bench, section: Section) -> None:
    """Every number of tokens and size of loss_layer.py."""
    section.note(
        "As benchmarks/loss_layer.py, in bfloat16: features -> loss and gradients of features and projection. The "
        "limit multiplies 512 rows at a time. Kernels: all that ran on the GPU in one run, copies and fills too."
    )
    sizes = {"V = 300, d = 128": (300, 128)} if bench.cpu else SIZES
    with mock.patch.dict(SIZES, sizes):
        for size in sizes:
            for tokens in bench.sizes.tokens:
                one_size(bench, section, size, tokens)


def one_size(bench: Bench, section: Section, size: str, tokens: int) -> None:
    """A row for each variant."""
    layer, stock = Layer(tokens, size, bench.device, torch.bfloat16), []
    chunk = rows_at_a_time(torch.device(bench.device), SIZES[size][0])

    def row(variant):
        signal = layer.signal(variant)
        times = [timed(lambda: layer.run(variant, signal), bench.device) for _ in range(bench.sizes.rounds + 1)]
        stock.append(1000 * statistics.median(times[1:]))
        found = {"ms": stock[-1], "of stock": stock[-1] / stock[0], "kernels": kernels(bench, layer, variant, signal)}
        return found | ({"chunks": math.ceil(tokens / chunk)} if variant.startswith("fused") else {})

    for variant in (*VARIANTS, LIMIT):
        section.attempt(size, {"tokens": tokens, "variant": variant}, lambda variant=variant: row(variant))


def kernels(bench: Bench, layer: Layer, variant: str, signal) -> int:
    """How many kernels a run launches; without a GPU the number of operations."""
    with profile(activities=[ProfilerActivity.CPU, *([] if bench.cpu else [ProfilerActivity.CUDA])]) as found:
        timed(lambda: layer.run(variant, signal), bench.device)
    events = found.key_averages()
    if bench.cpu:
        return sum(event.count for event in events if event.key.startswith("aten::"))
    return sum(event.count for event in on_device(events))
