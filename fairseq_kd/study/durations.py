"""How long stages take: as the done ones of the same shape, else by the calibration, else as the done of their kind.

How long an update of each model of a study takes, measured by a few of them.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean

from fairseq_kd.artifacts.manifest import ensure_writable_folder, exclusive, write_json
from fairseq_kd.artifacts.records import read_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.process import dying_with_this_process
from fairseq_kd.core.progress import Progress
from fairseq_kd.study.plan import PLAN_NAME, TRAININGS, Plan, Stage
from fairseq_kd.study.stage import resolve
from fairseq_kd.study.state import Records, end_of_log, stage_states

CALIBRATION = "calibration.json"
REMEDY = "remove it, and measure again by fairseq-kd study plan --calibrate"
WITHOUT = ("--seed", "--max-update", "--total-num-update", "--out")


class Estimates:
    """Seconds of each stage of a plan. unfinished: names of the stages that are not done."""

    def __init__(self, plan: Plan, work, records: Records | None = None):
        """records: see `stage_states`."""
        self.plan, known = plan, records or Records(work)
        records = {name: known.of(name) for name in plan.stages}
        self.unfinished = [name for name, record in records.items() if record is None]
        self._done = {name: record["seconds"] for name, record in records.items() if record}
        self._rates = {}  # by shape, and by kind for what is of another shape
        for name, seconds in self._done.items():
            stage = plan.stages[name]
            for key in {shape(stage), stage.kind}:
                self._rates.setdefault(key, []).append(seconds / (stage.updates or 1))
        path = Path(work) / CALIBRATION
        self._calibrated = read_record(path, REMEDY) or {}

    def seconds(self, name: str) -> float | None:
        """Of one stage; None when it is not known."""
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
        """(sum of the seconds that are known, number of stages whose time is not)."""
        found = [self.seconds(name) for name in names]
        return sum(seconds for seconds in found if seconds is not None), found.count(None)


def shape(stage: Stage) -> str:
    """What stages have in common that take the same time (a training: the same time an update)."""
    if stage.kind not in TRAININGS:
        return stage.kind
    words, kept = stage.command, []
    for before, word in pairwise(["", *words]):
        if word in WITHOUT or before in WITHOUT:
            continue
        kept.append("@" if word.startswith("@/") else word)
    return f"{stage.kind} {' '.join(kept)}"


UPDATES, WARM_UP = 12, 4
LOG_LINES_SHOWN = 12
OF_A_TEACHER = re.compile(r"--(kd-.*|teacher.*|student-temperature|js-beta)")


def calibrate(plan: Plan, work: Path, threads: int) -> None:
    """Measure the trainings whose time is not known, and keep the seconds an update in WORK/calibration.json.

    The data are prepared for it, once and for the study. A student with a cached teacher is taken to cost what it
    costs without (docs/benchmarks.md), one with a teacher that runs is not measured. Raises KDError when one fails.
    """
    ensure_writable_folder(work)
    with exclusive(work / "study"):
        write_json(work / PLAN_NAME, plan.as_dict())
        estimates, path = Estimates(plan, work), work / CALIBRATION
        known = read_record(path, REMEDY) or {}
        unknown = {
            shape(stage): stage
            for stage in plan.stages.values()
            if stage.kind in TRAININGS and estimates.seconds(stage.name) is None and "--teacher" not in stage.command
        }
        _prepare(plan, work, unknown.values())
        alike = {}
        for key, stage in unknown.items():
            alike.setdefault(shape(replace(stage, command=_without_teacher(stage.command))), []).append((key, stage))
        progress = Progress("calibration", len(alike), "models")
        for group in alike.values():
            seconds = _seconds_an_update(plan, work, group[0][1], threads)
            known |= {key: seconds for key, _ in group}
            write_json(path, known)
            progress.advance(1)
        progress.finish()


def _prepared(plan: Plan, stage: Stage) -> str:
    """Name of the `prepare` stage that the data of a stage come from."""
    while stage.kind != "prepare":
        stage = plan.stages[stage.inputs[0]]
    return stage.name


def _prepare(plan: Plan, work: Path, stages) -> None:
    states = stage_states(plan, work)
    for name in {_prepared(plan, stage) for stage in stages}:
        if states[name] != "done":
            words = [sys.executable, "-m", "fairseq_kd.study.stage", name, str(os.getpid())]
            if subprocess.run(words, cwd=work, preexec_fn=dying_with_this_process()).returncode != 0:
                raise KDError(
                    f"{name} has failed; the end of its log:\n{end_of_log(work / 'stages' / name, LOG_LINES_SHOWN)}"
                )


def _seconds_an_update(plan: Plan, work: Path, stage: Stage, threads: int) -> float:
    data_bin = str(work / "stages" / _prepared(plan, stage) / "data-bin")
    words = resolve(_without_teacher(stage.command), work, work, None)
    with tempfile.TemporaryDirectory(prefix="fairseq_kd-") as folder:
        command = [sys.executable, "-m", "fairseq_cli.train", data_bin, *words[2:], "--save-dir", folder]
        command += ["--max-update", str(UPDATES), "--log-interval", "1", "--disable-validation", "--no-save"]
        said, times = [], []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=os.environ | {"OMP_NUM_THREADS": str(threads)}, preexec_fn=dying_with_this_process(),
        ) as process:  # fmt: skip
            for line in process.stdout:
                said.append(line)
                if "| train_inner |" in line:
                    times.append(time.monotonic())
    if process.returncode != 0 or len(times) < UPDATES:
        raise KDError(f"the calibration of {stage.name} has failed:\n{''.join(said[-LOG_LINES_SHOWN:])}")
    return (times[-1] - times[WARM_UP - 1]) / (len(times) - WARM_UP)


def _without_teacher(command: list[str]) -> list[str]:
    kept, words = [], iter(command)
    for word in words:
        if OF_A_TEACHER.fullmatch(word):
            next(words)  # its value
        else:
            kept.append("label_smoothed_cross_entropy" if word == "kd_word" else word)
    return kept
