"""Milliseconds and peak memory of whole updates by fairseq's trainer. Part of `gpu.py`."""

import contextlib
import copy
import gc
import statistics
import traceback
from unittest import mock

import torch
from fairseq import utils
from fairseq.trainer import Trainer
from gpu_config import configuration
from gpu_data import Bench, RandomData
from gpu_report import Section
from train_step import timed

STOCK = "stock cross-entropy"
WARM_UP = 3
MIB = 2**20


def measure(bench: Bench, section: Section) -> None:
    """Every student, vocabulary and number of tokens."""
    section.note(
        f"Updates in {precision(bench)} of the student, by fairseq's trainer, on random sentences of 20 to 32 tokens; "
        "tokens: of a batch, with padding. The variants take turns, update by update; medians of "
        f"{bench.sizes.rounds} after {WARM_UP} for warming up, CUDA synchronised before and after each. MiB: weights, "
        "gradients and optimizer of the student and the peak of an update above them; the teacher "
        f"({bench.sizes.teacher}, untrained) apart."
    )
    for vocabulary in bench.sizes.vocabularies:
        for arch in bench.sizes.students:
            one_student(bench, section, vocabulary, arch)
            gc.collect()
            if not bench.cpu:
                torch.cuda.empty_cache()


def criterions(data: RandomData) -> dict[str, dict]:
    """Variant -> its criterion. An online teacher is put in afterwards."""
    cached = {"_name": "kd_word", "kd_weight": 0.5, "teacher_cache": str(data.cache)}
    online = {"_name": "kd_word", "kd_weight": 0.5, "teacher": "untrained"}
    return {
        STOCK: {"_name": "label_smoothed_cross_entropy"},
        "kd_word, no teacher": {"_name": "kd_word", "kd_weight": 0.0},
        "kd_word, cached": cached,
        "kd_word, online": online | {"teacher_dtype": "bfloat16"},
        "kd_word, online, float32 teacher": online,
    }


def precision(bench: Bench) -> str:
    """Of the student; fairseq has no other than fp32 on the CPU."""
    return "fp32" if bench.cpu else "bf16"


def trainer_of(bench: Bench, data: RandomData, arch: str, criterion: dict) -> Trainer:
    """As fairseq-train builds it, on the random sentences; an online teacher is in its criterion."""
    cfg = configuration(data.words(arch), criterion, bench.cpu, precision(bench))
    utils.set_torch_seed(cfg.common.seed)
    trainer = Trainer(cfg, data.task, copy.deepcopy(data.model(arch)), data.task.build_criterion(cfg.criterion))
    if "teacher" in criterion:
        dtype = criterion.get("teacher_dtype", "float32")
        trainer.criterion.online.teacher = data.teacher(bench.sizes.teacher, dtype)
    return trainer


class Runner:
    """A trainer and what its updates took."""

    def __init__(self, bench: Bench, data: RandomData, arch: str, criterion: dict):
        self.device, self.data = bench.device, data
        before = allocated(self.device)
        self.trainer = trainer_of(bench, data, arch, criterion)
        self.update(0, bench.sizes.tokens[0])  # makes optimizer and its state, and moves the teacher
        self.trainer.zero_grad()
        teacher = getattr(getattr(self.trainer.criterion, "source", None), "teacher", None)
        self.teacher = 0 if teacher is None else sum(p.nbytes for p in teacher.model.parameters())
        self.kept = allocated(self.device) - before - self.teacher
        self.begin()

    def begin(self) -> None:
        """Forget what was measured."""
        self.seconds, self.peak, self.error = [], 0, None

    def update(self, number: int, tokens: int) -> float:
        """Seconds of an update of fairseq's trainer; its statistics of memory are left for us to read."""
        sample = self.data.batch(number, tokens)
        before = allocated(self.device)
        with mock.patch("torch.cuda.reset_peak_memory_stats") if self.device == "cuda" else contextlib.nullcontext():
            seconds = timed(lambda: self.trainer.train_step([sample], raise_oom=True), self.device)
        if self.device == "cuda":
            self.peak = torch.cuda.max_memory_allocated() - before
            torch.cuda.reset_peak_memory_stats()
        return seconds

    def measure(self, number: int, tokens: int) -> None:
        """An update that counts, unless one before it went wrong."""
        if self.error is not None:
            return
        try:
            self.seconds.append(self.update(number, tokens))
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # their tensors would be kept
            self.error = error
            self.trainer.zero_grad()

    def figures(self, stock: "Runner") -> dict:
        """Columns of a row."""
        if self.error is not None:
            raise self.error
        milliseconds = self.milliseconds()
        found = {"ms": milliseconds, "updates/s": 1000 / milliseconds}
        if stock.error is None:
            found["of stock"] = milliseconds / stock.milliseconds()
        if self.device == "cuda":
            own, other = (each.kept + each.peak for each in (self, stock))
            found |= {"MiB": own // MIB, "MiB of stock": own / other, "peak MiB": self.peak // MIB}
            found |= {"teacher MiB": self.teacher // MIB}
        return found

    def milliseconds(self) -> float:
        """Median of an update."""
        return 1000 * statistics.median(self.seconds[WARM_UP:])


def allocated(device: str) -> int:
    """Bytes of tensors on the GPU."""
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def one_student(bench: Bench, section: Section, vocabulary: int, arch: str) -> None:
    """A row for each number of tokens and variant."""
    data, runners, labels = bench.random(vocabulary), {}, {"V": vocabulary, "student": arch}
    for name, criterion in criterions(data).items():

        def built(name=name, criterion=criterion):
            runners[name] = Runner(bench, data, arch, criterion)
            return {"parameters": sum(parameter.numel() for parameter in data.model(arch).parameters())}

        section.attempt("built", labels | {"variant": name}, built)
    for tokens in bench.sizes.tokens:
        if not section.late():
            take_turns(bench, runners, tokens)
        for name, runner in runners.items():
            row = {**labels, "tokens": tokens, "variant": name}
            section.attempt("updates", row, lambda: runner.figures(runners[STOCK]))  # noqa: B023


def take_turns(bench: Bench, runners: dict[str, Runner], tokens: int) -> None:
    """Update i of each variant, then update i + 1."""
    for runner in runners.values():
        runner.begin()
    for number in range(WARM_UP + bench.sizes.rounds):
        for runner in runners.values():
            runner.measure(number, tokens)
