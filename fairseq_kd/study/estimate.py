"""How long stages take: as the done ones of the same shape, else by the calibration, else as the done of their kind."""

import json
from itertools import pairwise
from pathlib import Path
from statistics import mean

from fairseq_kd.study.plan import TRAININGS, Plan, Stage
from fairseq_kd.study.state import Records

CALIBRATION = "calibration.json"
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
        self._calibrated = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

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
