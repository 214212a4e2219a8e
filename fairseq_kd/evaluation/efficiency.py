"""The cost of a model: size, operations, speed, memory."""

import contextlib
import time
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.evaluation.system import System
from fairseq_kd.models.count import operations_per_token, parameter_count

WARM_UP = 3  # sentences that are translated before the timing begins


def size(system: System, checkpoints: list) -> dict:
    """{"parameters", "weights_bytes", "checkpoint_bytes", "operations_per_token", "operations_length"}.

    weights_bytes: size of the different parameters in the dtype in which the model runs. checkpoint_bytes: size of the
    file, which also holds the optimizer's state if fairseq-train wrote it. operations_per_token: see `models.count`,
    for sentences of operations_length tokens, the mean length of the subset's sources; None if the model is not a
    transformer. Of an ensemble all of them are sums. checkpoints: the files.
    """
    from fairseq.models.transformer import TransformerModelBase

    parameters = [parameter for model in system.models for parameter in model.parameters()]
    length = round(float(np.mean(system.dataset.src_sizes)))
    known = all(isinstance(model, TransformerModelBase) for model in system.models)
    operations = [operations_per_token(model, length) for model in system.models] if known else []
    return {
        "parameters": sum(map(parameter_count, system.models)),
        "weights_bytes": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        "checkpoint_bytes": sum(Path(path).stat().st_size for path in checkpoints),
        "operations_per_token": sum(sum(one.values()) for one in operations) if known else None,
        "operations_length": length,
    }


class Meter:
    """Measures the wall time and the peak memory of the process, and of its GPU, during a `with` block."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = 0.0
        self.peak_rss_bytes: int | None = None
        self.peak_gpu_bytes: int | None = None

    def __enter__(self) -> "Meter":
        with contextlib.suppress(OSError):  # the system cannot reset the peak: it is reported as None
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
        """{"sentences_per_second", "peak_rss_bytes"}, on a GPU also "peak_gpu_bytes"; an unknown peak is None."""
        found = {"sentences_per_second": sentences / self.seconds, "peak_rss_bytes": self.peak_rss_bytes}
        return found | ({} if self.peak_gpu_bytes is None else {"peak_gpu_bytes": self.peak_gpu_bytes})


def check_latency(sentences: int, available: int) -> None:
    """Raises KDError when the subset has fewer sentences than are to be timed."""
    if sentences > available:
        raise KDError(f"--latency {sentences}: the subset has {available} sentences")


def latency(system: System, sentences: int) -> dict:
    """Time to collate and translate one sentence at a time: {"sentences", "p50_ms", "p95_ms", "mean_ms"}.

    sentences: how many are timed, evenly spaced over the subset. The first few are also translated before, untimed.
    """
    backend = system.backend()
    chosen = np.linspace(0, len(system.dataset) - 1, sentences).round().astype(int)
    for number in chosen[:WARM_UP]:
        backend.translate(np.array([number]), lambda count: None)
    progress = Progress("latency", sentences, "sentences")
    milliseconds = []
    for number in chosen:
        started = time.perf_counter()
        backend.translate(np.array([number]), lambda count: None)  # its copy to the CPU waits for the GPU
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
