"""What a model costs: size, speed, memory, operations."""

import contextlib
import time
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.evaluation.system import System, search_backend
from fairseq_kd.models.count import operations_a_token

WARM_UP = 3  # sentences that are not timed


def size(system: System, checkpoint) -> dict:
    """{"parameters", "weights_bytes", "checkpoint_bytes", "operations_per_token", "operations_length"}.

    weights_bytes: of the distinct parameters, at the type they are run in; checkpoint_bytes: of the file, which with
    fairseq-train's holds the optimizer's state as well. operations_per_token: see `models.count`, at as many tokens as
    the subset's sources have on average (operations_length); None for a model that is no transformer.
    """
    from fairseq.models.transformer import TransformerModelBase

    parameters = list(system.model.parameters())
    length = round(float(np.mean(system.dataset.src_sizes)))
    known = isinstance(system.model, TransformerModelBase)
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "weights_bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        "checkpoint_bytes": Path(checkpoint).stat().st_size,
        "operations_per_token": sum(operations_a_token(system.model, length).values()) if known else None,
        "operations_length": length,
    }


class Meter:
    """Wall time, and the largest memory of the process (and of the GPU), during a block."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = 0.0
        self.peak_rss_bytes: int | None = None
        self.peak_gpu_bytes: int | None = None

    def __enter__(self) -> "Meter":
        with contextlib.suppress(OSError):  # then the peak is that of the whole process, and left out below
            Path("/proc/self/clear_refs").write_text("5")
            self.peak_rss_bytes = 0
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._started = time.monotonic()
        return self

    def __exit__(self, *error) -> None:
        self.seconds = time.monotonic() - self._started
        if self.peak_rss_bytes is not None:
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.peak_rss_bytes = int(status["VmHWM"].split()[0]) * 1024
        if self.device.type == "cuda":
            self.peak_gpu_bytes = torch.cuda.max_memory_allocated(self.device)

    def as_dict(self, sentences: int) -> dict:
        """{"sentences_per_second", "peak_rss_bytes"} and on a GPU "peak_gpu_bytes"; None where Linux does not say."""
        found = {"sentences_per_second": sentences / self.seconds, "peak_rss_bytes": self.peak_rss_bytes}
        return found | ({} if self.peak_gpu_bytes is None else {"peak_gpu_bytes": self.peak_gpu_bytes})


def check_latency(sentences: int, available: int) -> None:
    """Raises KDError when so many sentences cannot be timed."""
    if sentences > available:
        raise KDError(f"--latency {sentences}: the subset has {available} sentences")


def latency(system: System, sentences: int) -> dict:
    """Time to translate one sentence by itself, collating included: {"sentences", "p50_ms", "p95_ms", "mean_ms"}.

    sentences: how many are timed, evenly spaced over the subset, after a few that are not.
    """
    backend = search_backend([system.model], system.task, system.dataset, system.options)
    chosen = np.linspace(0, len(system.dataset) - 1, sentences).round().astype(int)
    for number in chosen[:WARM_UP]:
        backend.translate(np.array([number]), lambda count: None)
    progress = Progress("latency", sentences, "sentences")
    milliseconds = []
    for number in chosen:
        started = time.perf_counter()
        backend.translate(np.array([number]), lambda count: None)  # ends with a copy to the CPU, so with the work
        milliseconds.append(1000 * (time.perf_counter() - started))
        progress.advance(1)
    progress.finish()
    p50, p95 = np.percentile(milliseconds, (50, 95))
    return {
        "sentences": sentences,
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "mean_ms": float(np.mean(milliseconds)),
    }
