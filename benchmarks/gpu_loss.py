"""The loss layer alone, with the chunks of the product and with small ones. Part of `gpu.py`."""

import statistics
from unittest import mock

import torch
from gpu_data import Bench
from gpu_report import Section
from loss_layer import SIZES, Layer
from train_step import timed

from fairseq_kd.loss import fused
from fairseq_kd.loss.signal import ROWS_AT_A_TIME

VARIANTS = ("stock CE", "fused CE", "fused cached KD, tail shapes", "fused online KD")
LIMIT = "limit: matrix products"
STOCK = "stock CE"


def measure(bench: Bench, section: Section) -> None:
    """Every number of tokens and size of loss_layer.py."""
    section.note(
        f"As benchmarks/loss_layer.py, in bfloat16: features -> loss and gradients of features and projection. The "
        f"other columns take chunks of {ROWS_AT_A_TIME} rows, as on a CPU. The limit multiplies 512 rows at a time."
    )
    sizes = {"V = 300, d = 128": (300, 128)} if bench.cpu else SIZES
    with mock.patch.dict(SIZES, sizes):
        for size in sizes:
            for tokens in bench.sizes.tokens:
                one_size(bench, section, size, tokens)


def one_size(bench: Bench, section: Section, size: str, tokens: int) -> None:
    """A row for each variant."""
    rows, stock = fused.chunk_rows(torch.device(bench.device), SIZES[size][0]), []

    def row(variant, layer):
        own = milliseconds(bench, layer, variant, rows)
        stock.append(own)
        figures = {"ms": own, "of stock": own / stock[0]}
        if variant.startswith("fused"):
            other = milliseconds(bench, layer, variant, ROWS_AT_A_TIME)
            figures |= {"rows": rows, "ms, small chunks": other, "of stock, small chunks": other / stock[0]}
        return figures

    layer = Layer(tokens, size, bench.device, torch.bfloat16)
    for variant in (*VARIANTS, LIMIT):
        labels = {"tokens": tokens, "variant": variant}
        section.attempt(size, labels, lambda variant=variant: row(variant, layer))


def milliseconds(bench: Bench, layer: Layer, variant: str, rows: int) -> float:
    """Median of some rounds, the first left out."""
    signal = layer.signal(variant)
    with mock.patch.object(fused, "chunk_rows", lambda *_: rows):
        times = [timed(lambda: layer.run(variant, signal), bench.device) for _ in range(bench.sizes.rounds + 1)]
    return 1000 * statistics.median(times[1:])
