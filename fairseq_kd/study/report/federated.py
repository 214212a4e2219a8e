"""Federated rounds: how many rounds, bytes and updates each run of the method `federated` needs to reach the target.

Everything comes from RUN/result.json of each run, from the plan (the trainings before the rounds), and from the result
of the centralised student where the target is a share of its BLEU. No stage is added to a plan for this section.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from fairseq_kd.evaluation.estimates import over_seeds
from fairseq_kd.study.factors import DEFAULTS
from fairseq_kd.study.federated_stages import RUN
from fairseq_kd.study.maker import TRAININGS
from fairseq_kd.study.methods import FEDERATED
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.report.draw import Point, Series, draw_lines, picture
from fairseq_kd.study.report.federated_saved import of_the_paper, percent, saved_of
from fairseq_kd.study.report.parts import Part
from fairseq_kd.study.report.plots import METRIC, SPREAD, Figure, slug
from fairseq_kd.study.report.rows import Row, Study, labels
from fairseq_kd.study.report.styles import styles_of
from fairseq_kd.study.report.tables import NOT_DONE, Table, factor_words
from fairseq_kd.study.state import read_output, record_of

TITLE, NOT_REACHED = "Federated rounds", "not reached"
COUNTED = (
    "Updates are those of all clients, those of the server, and those of the trainings before the rounds: the local "
    "models, and the consolidated student. Decoding and averaging are no updates. MB is the payload of the rounds in "
    "both directions; the local models that the owners send before the rounds are not counted."
)
MERGING = ("average", "decode", "cache")  # stages that make one model of several, or teach it
OVER_SEEDS = (
    "Rounds, MB and updates are means over the seeds that reached the target; round 0 is the start. Fewer rounds than "
    "random: the mean over the seeds in which this run and the run from random weights reached it, with its 95 % "
    "interval over these seeds. BLEU: the mean "
    "after the last round, with its 95 % interval over seeds (t distribution)."
)


@dataclass(frozen=True)
class Rounds:
    """One run. records: of its rounds, from round 0. goal: the BLEU of the target; None without one.

    before: updates of the trainings before the rounds. from_random: the run with the same options that begins with
    random weights; None without one, and for that run itself. one_of_several: whether it begins with one model that
    was made of the local ones.
    """

    seed: int
    records: list
    goal: float | None
    before: int
    from_random: "Rounds | None" = None
    one_of_several: bool = False

    @property
    def reached(self) -> int | None:
        """The number of the first round whose BLEU is at least the goal; None where no round reached it."""
        if self.goal is None:
            return None
        found = (one["round"] for one in self.records if one["bleu"] is not None and one["bleu"] >= self.goal)
        return next(found, None)

    @property
    def megabytes(self) -> float:
        """The payload of the rounds up to the target."""
        return sum(one["bytes_sent"] + one["bytes_received"] for one in self._needed()) / 1e6

    @property
    def updates(self) -> int:
        """All updates up to the target, with those before the rounds."""
        return self.before + sum(one["updates"] for one in self._needed())

    @property
    def final(self) -> float | None:
        """BLEU after the last round; None where it was not measured."""
        return self.records[-1]["bleu"]

    @property
    def saved(self) -> float | None:
        """The share of the rounds from random weights that this run saves; None where one of both has no number."""
        other = self.from_random
        if other is None or not other.reached or self.reached is None:
            return None
        return 1 - self.reached / other.reached

    def _needed(self) -> list:
        return self.records[: self.reached + 1]


def has_rounds(plan: Plan) -> bool:
    """Whether a study has federated runs."""
    return any("rounds" in cell for cell in plan.cells.values())


def federated_rounds(plan: Plan, study: Study, work: Path) -> Part:
    """The part of the report. Raises KDError when a result is damaged."""
    found = [(row, runs) for row in study.rows if (runs := _runs(plan, study, row, work))]
    if not found:
        return Part(TITLE, absent="no federated run is done: fairseq-kd study run")
    first = next(cell["rounds"] for cell in plan.cells.values() if "rounds" in cell)
    tables = [_table(study, found, first["subset"]), _per_seed(study, found, first["subset"])]
    return Part(TITLE, _lines(first, found), tables, [_figure(study, found, first["subset"])])


def _runs(plan: Plan, study: Study, row: Row, work: Path) -> list[Rounds]:
    """The finished runs of a row, in the order of its cells."""
    runs = []
    for cell in plan.cells.values():
        own = {name: cell["factors"][name] for name in study.factors if name in cell["factors"]}
        if "rounds" in cell and own == row.factors and (run := _run(plan, cell, work)) is not None:
            runs.append(run)
    return runs


def _run(plan: Plan, cell: dict, work: Path) -> Rounds | None:
    """The run of a cell; None until it is done."""
    folder, name = work / "stages" / cell["student"], cell["student"]
    if record_of(folder) is None:
        return None
    records = read_output(folder / RUN / "result.json")["rounds"]
    needed = [plan.stages[one] for one in plan.needed([name])]
    before = sum(stage.updates for stage in needed if stage.kind in TRAININGS)
    other = _from_random(plan, name)
    random = None if other is None else _run(plan, other, work)
    merged = any(stage.kind in MERGING for stage in needed)
    seed = cell["factors"].get("seed", DEFAULTS["seed"])
    return Rounds(seed, records, _goal(cell, work), before, random, merged)


def _goal(cell: dict, work: Path) -> float | None:
    """The BLEU of the target; None without a target, or until the centralised student is evaluated."""
    goal = cell["rounds"]["goal"]
    if goal is None or "bleu" in goal:
        return goal and float(goal["bleu"])
    folder = work / "stages" / goal["result"]
    return None if record_of(folder) is None else goal["share"] * read_output(folder / "result.json")[METRIC]["score"]


def _from_random(plan: Plan, name: str) -> dict | None:
    """The cell whose run has the same command as that of this stage, without a start."""
    words = plan.stages[name].command
    if "--start" not in words:
        return None
    at = words.index("--start")
    plain = words[:at] + words[at + 2 :]
    cells = (cell for cell in plan.cells.values() if "rounds" in cell)
    return next((cell for cell in cells if plan.stages[cell["student"]].command == plain), None)


def _lines(about: dict, found: list) -> list[str]:
    goal, subset, lines = about["goal"], about["subset"], []
    runs = [run for _, runs in found for run in runs]
    if goal is None:
        lines.append("The study has no target: give target in the section federated.")
    elif "bleu" in goal:
        lines.append(f"The target is {goal['bleu']:g} BLEU on {subset}.")
    else:
        lines.append(
            f"The target is {100 * goal['share']:g} % of the BLEU on {subset} of the centralised student: the student "
            "of ce on all data in one place, with the same seed and options. It is decoded as the rounds are."
        )
    with_goal = [run for run in runs if run.goal is not None]
    late = sum(run.reached is None for run in with_goal)
    if with_goal:
        count = "All runs" if late == 0 else f"{len(with_goal) - late} of {len(with_goal)} runs"
        lines.append(f"{count} reached the target.")
    if any(run.goal == 0 for run in runs):
        lines.append("A centralised student has 0 BLEU, so its target means nothing.")
    if goal is not None and len(with_goal) < len(runs):
        lines.append(f"The target of {len(runs) - len(with_goal)} runs is not known yet.")
    return [*lines, *of_the_paper(found), COUNTED]


def _table(study: Study, found: list, subset: str) -> Table:
    head = ["seeds", "reached", "rounds", "MB", "updates", "fewer rounds than random", f"BLEU on {subset} (95 %)"]
    rows = [[*factor_words(study, row), *_cells(row, runs)] for row, runs in found]
    title = f"Rounds to the target on {subset}"
    return Table(title, [*study.factors, *head], rows, len(study.factors), [], "federated-rounds", OVER_SEEDS)


def _cells(row: Row, runs: list[Rounds]) -> list[str]:
    there = [run for run in runs if run.reached is not None]
    known = [run for run in runs if run.goal is not None]
    count = str(len(runs)) if len(runs) == len(row.runs) else f"{len(runs)} of {len(row.runs)}"
    if there:
        found = [mean(run.reached for run in there), mean(run.megabytes for run in there)]
        numbers = [f"{found[0]:.1f}", f"{found[1]:.2f}", f"{mean(run.updates for run in there):,.0f}"]
    else:
        numbers = [NOT_REACHED if known else NOT_DONE, NOT_DONE, NOT_DONE]
    less = percent(saved) if (saved := saved_of(runs)) else NOT_DONE
    if saved and len(saved) < len(runs):
        less += f"; {len(saved)} of {len(runs)} seeds"
    return [count, f"{len(there)} of {len(known)}" if known else NOT_DONE, *numbers, less, _final(runs)]


def _final(runs: list[Rounds]) -> str:
    scores = [run.final for run in runs if run.final is not None]
    if not scores:
        return NOT_DONE
    interval = over_seeds(scores).interval() if len(scores) > 1 else None
    return f"{mean(scores):.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def _per_seed(study: Study, found: list, subset: str) -> Table:
    head = ["seed", "target", "rounds", "MB", "updates", "of them before the rounds", f"BLEU on {subset}"]
    rows = [[*factor_words(study, row), *_of_seed(run)] for row, runs in found for run in runs]
    title = f"Rounds to the target on {subset}, per seed"
    return Table(title, [*study.factors, *head], rows, len(study.factors), [], "federated-rounds-per-seed")


def _of_seed(run: Rounds) -> list[str]:
    goal = NOT_DONE if run.goal is None else f"{run.goal:.2f}"
    final = NOT_DONE if run.final is None else f"{run.final:.2f}"
    numbers = [NOT_DONE if run.goal is None else NOT_REACHED, NOT_DONE, NOT_DONE]
    if run.reached is not None:
        numbers = [str(run.reached), f"{run.megabytes:.2f}", f"{run.updates:,}"]
    return [str(run.seed), goal, *numbers, f"{run.before:,}", final]


def _figure(study: Study, found: list, subset: str) -> Figure:
    """BLEU by round: a line per row, and the targets."""
    names, styles = labels([row.factors for row, _ in found]), styles_of(study, [row.factors for row, _ in found])
    series = [Series(*one, style) for *one, style in zip(names, map(_points, found), styles, strict=True)]
    goals = sorted({run.goal for _, runs in found for run in runs if run.goal is not None})
    levels = [Series("target, mean over seeds", [Point(None, goals)])] if goals else []

    def paint(axes):
        draw_lines(axes, [one for one in series if one.points], levels)
        axes.set(xlabel="round", ylabel=f"BLEU on {subset}")
        axes.xaxis.get_major_locator().set_params(integer=True)

    name = slug(f"{FEDERATED}-bleu-{subset}-by-round")
    return Figure(name, f"BLEU on {subset} by round", SPREAD, picture(name, paint))


def _points(pair: tuple) -> list[Point]:
    values = {}
    for run in pair[1]:
        for record in run.records:
            if record["bleu"] is not None:
                values.setdefault(record["round"], []).append(record["bleu"])
    return [Point(number, scores) for number, scores in values.items()]
