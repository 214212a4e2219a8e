"""Learning and forgetting: students that go on from a trained student, compared with that student segment by segment.

The student before is a `ce` student of the study. Its evaluation is the stage of the plan that has the same command as
the evaluation afterwards, except for the checkpoint. No stage is added to a plan for this section.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.core.progress import Progress
from fairseq_kd.evaluation.changes import CLASSES, NET, THRESHOLD, ChangeOptions
from fairseq_kd.evaluation.changes_plot import paint_changes
from fairseq_kd.evaluation.changes_table import interval_text, percent
from fairseq_kd.evaluation.results import check_same_segments
from fairseq_kd.evaluation.segment_changes import Pairs, describe_changes
from fairseq_kd.study.key import FILE_OF_STAGE
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.refresh import rounds_of
from fairseq_kd.study.report.draw import picture
from fairseq_kd.study.report.plots import Figure, slug
from fairseq_kd.study.report.rows import Row, Study, labels
from fairseq_kd.study.report.tables import Table, factor_words
from fairseq_kd.study.state import read_output, record_of

TITLE, OF_A_SET = "Learning and forgetting", "Segments gained and lost on"
REMEDY = "add the method ce, from whose students other students go on, and finish its cells: fairseq-kd study run"
WEIGHTS, PEERS = "--finetune-from-model", "--peers"  # options that name checkpoints with which a training begins
PEER = re.compile(r"/peers/peer(\d+)/")  # in the path of the checkpoint of one of several peers
PARTITION, PARTS = "partition", Path("parts") / "parts"  # the kind of a stage, and where it keeps the part of each line
TEXTS = ("hypotheses", "references", "sources_sha256")
NOTE = (
    f"Gained and lost: the share of segments whose sentence chrF is more than {THRESHOLD:g} points above or below that "
    "of the ce student from which the training went on, with the same seed; kept: all others; net: gained minus lost. "
    "In brackets: 95 % interval over seeds (t distribution), with one seed over segments (Wilson; net: Agresti and "
    "Min). Two trainings that differ only in their seed also gain and lose segments."
)


@dataclass(frozen=True)
class Changed:
    """A row of the study on one evaluation set. entry: "changes", see `evaluation.changes`."""

    on: str
    row: Row
    entry: dict


def find_changes(plan: Plan, study: Study, work: Path) -> list[Changed]:
    """The rows whose students go on from a student with a result, in the order of sets and rows.

    Raises KDError when a result is damaged.
    """
    wanted = [(on, row) for on in study.sets for row in study.rows]
    places = {(on, number): _stages(plan, study, row, on) for number, (on, row) in enumerate(wanted)}
    places = {place: found for place, found in places.items() if found}
    progress, found = Progress("comparing segments", len(places), "rows"), []
    for (on, number), stages in progress.over(places.items()):
        if (entry := _entry(work, stages, _parts(plan, work, stages))) is not None:
            found.append(Changed(on, wanted[number][1], entry))
    progress.finish()
    return found


def goes_on(plan: Plan) -> bool:
    """Whether any student of a plan goes on from a trained student."""
    return any(_start(plan, cell) is not None for cell in plan.cells.values())


def _stages(plan: Plan, study: Study, row: Row, on: str) -> list[tuple]:
    """[(seed, evaluation before, evaluation afterwards)] of the runs of a row: names of stages."""
    found = []
    for cell in plan.cells.values():
        if {name: cell["factors"][name] for name in study.factors if name in cell["factors"]} == row.factors:
            before = earlier_evaluation(plan, cell, on)
            if before is not None:
                found.append((cell["factors"].get("seed"), before, cell["results"][on]))
    return found


def earlier_evaluation(plan: Plan, cell: dict, on: str) -> str | None:
    """Name of the stage that evaluates the student from which the student of a cell goes on; None without one.

    on: the evaluation set. A student that was made compact is compared with a compact one.
    """
    start = _start(plan, cell)
    if start is None:
        return None
    after = plan.stages[cell["results"][on]]
    compact = _trained(plan, _checkpoint(after))[1]
    for stage in plan.stages.values():
        same = stage.kind == after.kind and _without_checkpoint(stage) == _without_checkpoint(after)
        if same and _trained(plan, _checkpoint(stage)) == (start, compact):
            return stage.name
    return None


def _start(plan: Plan, cell: dict) -> str | None:
    """The checkpoint of a trained student with which the student of a cell begins; of several peers that of its own."""
    if cell["student"] is None:
        return None
    command = plan.stages[rounds_of(plan.stages, cell["student"])[0]].command
    evaluated = _trained(plan, _checkpoint(plan.stages[next(iter(cell["results"].values()))]))[0]
    number = int(found[1]) if (found := PEER.search(evaluated)) else 1
    begins = {WEIGHTS: 1, PEERS: number}
    words = [command[command.index(name) + 1].split(":")[n - 1] for name, n in begins.items() if name in command]
    stages = [plan.stages[place[1]] for word in words if (place := FILE_OF_STAGE.match(word))]
    return words[0] if stages and stages[0].kind == "student" else None


def _checkpoint(stage) -> str:
    return stage.command[stage.command.index("--checkpoint") + 1]


def _without_checkpoint(stage) -> list[str]:
    at = stage.command.index("--checkpoint")
    return stage.command[:at] + stage.command[at + 2 :]


def _trained(plan: Plan, checkpoint: str) -> tuple[str, bool]:
    """(the checkpoint that a training wrote, whether it was made compact afterwards)."""
    place = FILE_OF_STAGE.match(checkpoint)
    if place and plan.stages[place[1]].kind == "compact":
        return plan.stages[place[1]].command[2], True
    return checkpoint, False


def _parts(plan: Plan, work: Path, stages: list[tuple]) -> Path | None:
    """The folder with the part of each segment, where all runs belong to one partition of the data; else None."""
    needed = {one for _, *names in stages for one in plan.needed(names)}
    found = [name for name in needed if plan.stages[name].kind == PARTITION]
    return work / "stages" / found[0] / PARTS if len(found) == 1 else None


def _entry(work: Path, stages: list[tuple], parts: Path | None) -> dict | None:
    """The entry "changes" of the runs whose results exist and hold their texts; None without any."""
    runs = []
    for seed, *names in stages:
        results = [_read(work, name) for name in names]
        if None not in results:
            runs.append((seed, *results))
    if not runs:
        return None
    seeds, before, after = zip(*runs, strict=True)
    several = [*before, *after]
    check_same_segments([f"{work}: {result['checkpoint']}" for result in several], several, "chrf")
    texts = ([result["hypotheses"] for result in results] for results in (before, after))
    labels_of = parts and parts / f"{before[0]['subset']}.txt"
    options = ChangeOptions(parts=str(labels_of) if labels_of and labels_of.is_file() else None)
    return describe_changes(Pairs(*texts, list(seeds), before[0]["references"]), options)


def _read(work: Path, stage: str) -> dict | None:
    """A result; None while it does not exist, and for one of an old version, which holds no texts."""
    folder = work / "stages" / stage
    if record_of(folder) is None:
        return None
    result = read_output(folder / "result.json")
    return result if all(name in result for name in TEXTS) else None


def change_tables(study: Study, changes: list[Changed]) -> list[Table]:
    """One table per evaluation set."""
    found = []
    for on in dict.fromkeys(changed.on for changed in changes):
        here = [changed for changed in changes if changed.on == on]
        at = [f"net at {one['threshold']:g} points" for one in here[0].entry["sensitivity"]]
        head = [*study.factors, *CLASSES, NET, *at, "seeds"]
        rows = [[*factor_words(study, changed.row), *_cells(changed)] for changed in here]
        found.append(Table(f"{OF_A_SET} {on}", head, rows, len(study.factors), [NOTE], slug(f"changes-{on}")))
        rows = [[*factor_words(study, changed.row), part["part"], *_shares(part)]
                for changed in here for part in changed.entry.get("parts", ())]  # fmt: skip
        if rows:
            head = [*study.factors, "segments of", *CLASSES, NET]
            title, name = f"{OF_A_SET} {on}, by part of the test data", slug(f"changes-{on}-parts")
            found.append(Table(title, head, rows, len(study.factors) + 1, [], name))
    return found


def _shares(group: dict) -> list[str]:
    return [_share(group[name]) for name in CLASSES] + [_share(group[NET], signed=True)]


def _cells(changed: Changed) -> list[str]:
    overall, seeds, runs = changed.entry["overall"], len(changed.entry["seeds"]), len(changed.row.runs)
    cells = [percent(one[NET], signed=True) for one in changed.entry["sensitivity"]]
    return [*_shares(overall), *cells, str(seeds) if seeds == runs else f"{seeds} of {runs}"]


def _share(found: dict, signed: bool = False) -> str:
    interval = "" if found["interval"] is None else f" ({interval_text(found['interval'], signed)})"
    return percent(found["share"], signed) + interval


def change_figures(changes: list[Changed]) -> list[Figure]:
    """One plot per evaluation set: the three shares of each row with their 95 % intervals."""
    found = []
    for on in dict.fromkeys(changed.on for changed in changes):
        here = [changed for changed in changes if changed.on == on]
        names = labels([changed.row.factors for changed in here])
        groups = [(name, changed.entry["overall"]) for name, changed in zip(names, here, strict=True)]
        name = slug(f"changes-{on}")
        svg = picture(name, lambda axes, groups=groups: paint_changes(axes, groups), 1.6 + 0.5 * len(groups))
        caption = f"Gained, lost: by more than {THRESHOLD:g} points of sentence chrF. Bars: 95 %, as in the table."
        found.append(Figure(name, f"{OF_A_SET} {on}", caption, svg))
    return found
