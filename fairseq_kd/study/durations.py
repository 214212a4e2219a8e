"""Estimates of the time that stages take, and the calibration that measures it.

The time of a stage is estimated from the first of these that exists: finished stages of the same shape; the
calibration, which trains each model for a few updates; finished stages of the same kind.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean

from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.records import read_record, write_record
from fairseq_kd.artifacts.writing import ensure_writable_folder
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.process import dying_with_this_process
from fairseq_kd.core.progress import Progress, format_seconds
from fairseq_kd.study.factors import is_kd_option
from fairseq_kd.study.key import inputs_of
from fairseq_kd.study.maker import TRAININGS
from fairseq_kd.study.plan import PLAN_NAME, Plan
from fairseq_kd.study.stage import resolve
from fairseq_kd.study.stages import Stage
from fairseq_kd.study.state import Records, end_of_log, stage_states
from fairseq_kd.training.arguments import CROSS_ENTROPY

CALIBRATION = "calibration.json"
REMEDY = "remove it, and measure again by fairseq-kd study plan --calibrate"
NOT_IN_SHAPE = ("--seed", "--max-update", "--total-num-update", "--out")
DATA = ("prepare", "partition", "noise", "decode", "mix")  # kinds of stages that make data-bins
WEIGHTS = ("finetune-from-model", "restore-file")  # the weights with which a student begins do not change its speed
# options that name what other stages make, and that change the speed of an update
NOT_MEASURED = {"--teacher", "--distilled", "--peers"}
UPDATES, WARM_UP = 12, 4  # updates of a calibration, and how many of them are not timed
LOG_LINES_SHOWN = 12


class Estimates:
    """The seconds that each stage of a plan takes. unfinished: names of the stages that are not done."""

    def __init__(self, plan: Plan, work, records: Records | None = None):
        """records: see `stage_states`."""
        self.plan, known = plan, records or Records(work)
        records = {name: known.of(name) for name in plan.stages}
        self.unfinished = [name for name, record in records.items() if record is None]
        self._done = {name: record["seconds"] for name, record in records.items() if record}
        self._rates = {}  # shape or kind -> seconds per update (per stage for other kinds than trainings)
        for name, seconds in self._done.items():
            stage = plan.stages[name]
            for key in {shape(stage), stage.kind}:
                self._rates.setdefault(key, []).append(seconds / (stage.updates or 1))
        path = Path(work) / CALIBRATION
        self._calibrated = read_record(path, REMEDY) or {}

    def seconds(self, name: str) -> float | None:
        """The measured or estimated seconds of one stage; None without any measurement."""
        if name in self._done:
            return self._done[name]
        stage = self.plan.stages[name]
        if rates := self._rates.get(shape(stage)):
            rate = mean(rates)
        elif shape(stage) in self._calibrated:
            rate = self._calibrated[shape(stage)]
        else:
            rate = mean(self._rates[stage.kind]) if stage.kind in self._rates else None
        return None if rate is None else rate * (stage.updates or 1)

    def total(self, names) -> tuple[float, int]:
        """(sum of the known seconds, number of stages without an estimate)."""
        found = [self.seconds(name) for name in names]
        return sum(seconds for seconds in found if seconds is not None), found.count(None)

    def describe(self, names) -> str:
        """The sum of the seconds, as text: "not known" where no stage has an estimate, "at least ..." where some have
        none.
        """
        seconds, unknown = self.total(names := list(names))
        if names and unknown == len(names):
            return "not known"
        return ("at least " if unknown else "") + format_seconds(seconds)

    def measurable(self) -> list[str]:
        """The stages without an estimate that `calibrate` measures: trainings that need no other training."""
        return [
            name
            for name, stage in self.plan.stages.items()
            if stage.kind in TRAININGS and not NOT_MEASURED & set(stage.command) and self.seconds(name) is None
        ]


def shape(stage: Stage) -> str:
    """The part of a command that decides how long a stage takes (for a training: how long an update takes)."""
    if stage.kind not in TRAININGS:
        return stage.kind
    words, kept = stage.command, []
    for before, word in pairwise(["", *words]):
        if word in NOT_IN_SHAPE or before in NOT_IN_SHAPE:
            continue
        kept.append("@" if word.startswith("@/") else word)
    return f"{stage.kind} {' '.join(kept)}"


def calibrate(plan: Plan, work: Path, threads: int) -> None:
    """Measure the trainings without an estimate, and write their seconds per update to WORK/calibration.json.

    The data are prepared first; the study uses the same stages later. A student with a cached teacher is measured
    without it, because the cache costs little (docs/benchmarks.md). A student with an online teacher is not measured.
    threads: of each training. Raises KDError when a measurement fails.
    """
    ensure_writable_folder(work)
    with exclusive(work / "study"):
        write_record(work / PLAN_NAME, plan.as_dict())
        estimates, path = Estimates(plan, work), work / CALIBRATION
        known = read_record(path, REMEDY) or {}
        unknown = {shape(stage): stage for stage in map(plan.stages.get, estimates.measurable())}
        _prepare(plan, work, unknown.values())
        alike = {}
        for key, stage in unknown.items():
            alike.setdefault(shape(replace(stage, command=_without_teacher(stage.command))), []).append((key, stage))
        progress = Progress("calibration", len(alike), "models")
        for group in alike.values():
            seconds = _seconds_per_update(plan, work, group[0][1], threads)
            known |= {key: seconds for key, _ in group}
            write_record(path, known)
            progress.advance(1)
        progress.finish()


def _data_of(plan: Plan, stage: Stage) -> str:
    """The word for the data-bin from which the data of a stage are made: of a `prepare` stage, or an existing one."""
    while stage.kind != "prepare":
        if not (makers := [name for name in stage.inputs if plan.stages[name].kind in DATA]):
            return next(word for word in stage.command if (plan.existing.of(word) or {}).get("kind") == "data-bin")
        stage = plan.stages[makers[0]]
    return stage.path("data-bin")


def _prepare(plan: Plan, work: Path, stages) -> None:
    states = stage_states(plan, work)
    for name in inputs_of([_data_of(plan, stage) for stage in stages]):
        if states[name] != "done":
            words = [sys.executable, "-m", "fairseq_kd.study.stage", name, str(os.getpid())]
            if subprocess.run(words, cwd=work, preexec_fn=dying_with_this_process()).returncode != 0:
                raise KDError(
                    f"{name} has failed; the end of its log:\n{end_of_log(work / 'stages' / name, LOG_LINES_SHOWN)}"
                )


def _seconds_per_update(plan: Plan, work: Path, stage: Stage, threads: int) -> float:
    words = [_data_of(plan, stage), *_without_teacher(stage.command)]
    data_bin, *words = resolve(words, work, work, None, plan.existing.artefacts)
    with tempfile.TemporaryDirectory(prefix="fairseq_kd-") as folder:
        command = [sys.executable, "-m", "fairseq_cli.train", data_bin, *words[2:], "--save-dir", folder]
        command += ["--max-update", str(UPDATES), "--log-interval", "1", "--disable-validation", "--no-save"]
        lines, times = [], []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=os.environ | {"OMP_NUM_THREADS": str(threads)}, preexec_fn=dying_with_this_process(),
        ) as process:  # fmt: skip
            for line in process.stdout:
                lines.append(line)
                if "| train_inner |" in line:
                    times.append(time.monotonic())
    if process.returncode != 0 or len(times) < UPDATES:
        raise KDError(f"the calibration of {stage.name} has failed:\n{''.join(lines[-LOG_LINES_SHOWN:])}")
    return (times[-1] - times[WARM_UP - 1]) / (len(times) - WARM_UP)


def _without_teacher(command: list[str]) -> list[str]:
    """The command of a training, as one by CROSS_ENTROPY."""
    kept, words = [], iter(command)
    for word in words:
        option = word.removeprefix("--")
        if option != word and option.startswith("reset-"):
            continue
        if option != word and (option.startswith("teacher") or option in WEIGHTS or is_kd_option(option)):
            next(words)  # the value of the option
        elif option != word or word != CROSS_ENTROPY["criterion"]:
            kept.append(word)
        else:
            kept += [word, "--kd-weight", str(CROSS_ENTROPY["kd-weight"])]
    return kept
