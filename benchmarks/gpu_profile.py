"""Where an update waits for the GPU, and what the GPU does. Part of `gpu.py`."""

import collections
import statistics
import warnings
from pathlib import Path

import torch
from gpu_data import LENGTH, Bench, RandomData
from gpu_figures import STOCK, criterions, precision, trainer_of
from gpu_report import Section
from torch.profiler import ProfilerActivity, profile
from train_step import timed

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "aten::item", "aten::_local_scalar_dense")
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
COPIES = ("cudaMemcpyAsync", "cudaMemsetAsync")
LONGEST = "kd_word, cached"  # whose kernels are listed
TOP = 10
WARM_UP, TIMED = 3, 9  # updates
SHAPES = 5


def measure(bench: Bench, section: Section) -> None:
    """The smallest student and vocabulary, where launches and waits weigh most."""
    data, arch = bench.random(bench.sizes.vocabularies[0]), bench.sizes.students[0]
    tokens = bench.sizes.tokens[min(1, len(bench.sizes.tokens) - 1)]
    section.note(
        f"{arch}, V = {data.vocabulary:,}, batches of {tokens:,} tokens, {precision(bench)}; one update, the trainer's "
        "own work included. Counts: by torch.profiler. Waiting places: by torch.cuda.set_sync_debug_mode."
    )
    for name, arch_of, criterion in variants(data, arch):

        def row(name=name, arch=arch_of, criterion=criterion):
            update = Update(bench, data, trainer_of(bench, data, arch, criterion), tokens)
            events = update.profiled()
            if name == LONGEST:
                longest(section, events)
            if not bench.cpu:
                waiting_places(section, name, update)
            return counts(events, bench) | busy(events, update)

        section.attempt("per update", {"variant": name}, row)
    for implementation in () if bench.cpu else ("torch's choice", "without cuDNN"):
        labels = {"attention": implementation}
        section.attempt("updates with batches of a new shape", labels, lambda: new_shapes(bench, data, arch, tokens))
        torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(True)


def new_shapes(bench: Bench, data: RandomData, arch: str, tokens: int) -> dict:
    """Median milliseconds of stock updates, each with a number of sentences that no update before had."""
    update = Update(bench, data, trainer_of(bench, data, arch, criterions(data)[STOCK]), tokens)
    batches = iter([data.batch(number, tokens - LENGTH * (number + 1)) for number in range(SHAPES)])
    times = [timed(lambda: update.trainer.train_step([next(batches)]), bench.device) for _ in range(SHAPES)]
    return {"ms": 1000 * statistics.median(times), "ms of a known shape": busy([], update)["ms"]}


def variants(data: RandomData, arch: str):
    """Yield (name, architecture, criterion)."""
    every = criterions(data)
    del every["kd_word, online, float32 teacher"]
    for name, criterion in every.items():
        yield name, arch, criterion
    for name in (STOCK, LONGEST):
        yield f"kd_adaptive, {name}", arch.replace("student", "adaptive"), every[name]


class Update:
    """Updates of a trainer, warmed up; each call makes one."""

    def __init__(self, bench: Bench, data: RandomData, trainer, tokens: int):
        self.bench, self.trainer = bench, trainer
        self.samples = [data.batch(number, tokens) for number in range(WARM_UP)]
        for _ in self.samples:
            self()

    def __call__(self) -> None:
        """One update."""
        self.samples.append(self.samples.pop(0))
        self.trainer.train_step([self.samples[0]])

    def profiled(self):
        """torch's averages by name over what ran in one update."""
        cuda = [] if self.bench.cpu else [ProfilerActivity.CUDA]
        with profile(activities=[ProfilerActivity.CPU, *cuda]) as found:
            timed(self, self.bench.device)
        return found.key_averages()


def counts(events, bench: Bench) -> dict:
    """Calls."""
    calls = {event.key: event.count for event in events}
    columns = {name: calls.get(name, 0) for name in WAITS}
    if not bench.cpu:
        columns["kernels"] = sum(calls.get(name, 0) for name in LAUNCHES)
        columns["copies and fills"] = sum(calls.get(name, 0) for name in COPIES)
    return columns | {"aten operations": sum(count for name, count in calls.items() if name.startswith("aten::"))}


def busy(events, update: Update) -> dict:
    """Milliseconds of an update without the profiler, and of all kernels in one."""
    found = {"ms": 1000 * statistics.median(timed(update, update.bench.device) for _ in range(TIMED))}
    if not update.bench.cpu and events:
        kernels = sum(event.self_device_time_total for event in on_device(events)) / 1000
        found |= {"ms of kernels": kernels, "GPU busy": kernels / found["ms"]}
    return found


def on_device(events) -> list:
    """What ran on the GPU: kernels, copies, fills."""
    return [
        event
        for event in events
        if str(event.device_type).endswith("CUDA") and not getattr(event, "is_user_annotation", False)
    ]


def longest(section: Section, events) -> None:
    """The kernels that take most time; without a GPU the operations."""
    field, chosen = "self_device_time_total", on_device(events)
    if not chosen:
        field, chosen = "self_cpu_time_total", list(events)
    total = sum(getattr(event, field) for event in chosen)
    for event in sorted(chosen, key=lambda event: getattr(event, field), reverse=True)[:TOP]:
        spent = getattr(event, field)
        figures = {"calls": event.count, "ms": spent / 1000, "share": spent / total}
        section.row(f"longest of {LONGEST}, one update", kernel=event.key[:90], **figures)


def waiting_places(section: Section, name: str, update: Update) -> None:
    """File and line of each call that waits for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchroniz" in str(warning.message)]
    places = collections.Counter(f"{'/'.join(Path(w.filename).parts[-3:])}:{w.lineno}" for w in waits)
    for place, count in places.most_common():
        section.row("waiting places", variant=name, place=place, times=count)
