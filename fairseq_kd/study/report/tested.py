"""The box "What was tested": question, data, models, what the factors mean, seeds, and where the results stop."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fairseq_kd.study.factors import METHODS
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.report.data import read_data
from fairseq_kd.study.report.limits import find_limits, no_limits, truncated_teachers
from fairseq_kd.study.report.rows import METRICS, TEACHER, Row, Study
from fairseq_kd.study.report.words import about_factor, about_value, has_words, noisy
from fairseq_kd.study.spec import Spec
from fairseq_kd.study.stages import Stage

NOT_STATED = "The question of this study is not stated. The key 'question' of the spec states it."
SHOWN_SEEDS, SHOWN_SETS = 10, 3


@dataclass(frozen=True)
class Value:
    """One value of a factor, and what it means."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Entry:
    """One entry of the box. lines: sentences. values: the values of a factor."""

    term: str
    lines: list
    values: tuple = ()


@dataclass(frozen=True)
class Tested:
    """The box. summary: what was compared with what, in one sentence. care: the limits in few words, empty without."""

    question: str
    summary: str
    entries: list
    limits: list
    care: str


def describe_study(plan: Plan, study: Study, work: Path) -> Tested:
    """Raises KDError when a data-bin is damaged."""
    data, spec = read_data(plan, study, work), plan.spec
    factors = [_factor(plan, study, name) for name in study.factors]
    entries = [
        Entry("Data", [one.describe() for one in data]),
        Entry("Teacher", _teachers(plan, study)),
        Entry("Students", _students(plan, study)),
        *factors,
        *_fixed(plan, study),
        Entry("Seeds", [_seeds(study)]),
        Entry("Measured", _measured(plan, study)),
    ]
    on_data = " and ".join(dict.fromkeys(one.short() for one in data))
    entries = [entry for entry in entries if entry.lines]
    limits = [*find_limits(study), *truncated_teachers(plan, work)]
    care = "; ".join(dict.fromkeys(line.partition(":")[0] for line in limits))
    return Tested(question_of(spec), _summary(study, on_data), entries, limits or [no_limits(study)], care)


def question_of(spec: Spec) -> str:
    """The key `question` of the spec, else the comment at its beginning."""
    if given := getattr(spec, "question", None):
        return " ".join(str(given).split())
    lines = []
    for line in spec.path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    return " ".join(" ".join(lines).split()) or NOT_STATED


def _summary(study: Study, on_data: str) -> str:
    varied = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in study.factors.items())
    sizes = [{result["sentences"] for result in study.results_on(on) if "sentences" in result} for on in study.sets]
    sets = [f"{on} ({min(size):,} sentences)" if size else on for on, size in zip(study.sets, sizes, strict=True)]
    listed = ", ".join(sets[:SHOWN_SETS]) + (f" and {len(sets) - SHOWN_SETS} more" if len(sets) > SHOWN_SETS else "")
    runs = sum(len(row.runs) for row in study.rows)
    students = "one student" if runs == 1 else f"{runs} students"
    teachers = {0: "no teacher", 1: "one teacher"}.get(len(study.teachers), f"{len(study.teachers)} teachers")
    return f"Compared: {students} and {teachers} ({varied}); {on_data}; by BLEU on {listed}."


def _factor(plan: Plan, study: Study, name: str) -> Entry:
    """A factor with the meaning of its values; in one line where the values speak for themselves."""
    distils = any(cell["factors"].get("method", "ce") != "ce" for cell in plan.cells.values())
    values = study.factors[name]
    if name == "method":
        values = [*(one for one in METHODS if one in values), *(one for one in values if one not in METHODS)]
    about = about_factor(plan.spec, name)
    about = about[:1].upper() + about[1:]
    meanings = [about_value(plan.spec, name, value, distils) for value in values]
    if has_words(plan.spec, name):
        pairs = zip(values, meanings, strict=True)
        return Entry(f"Varied: {name}", [f"{about}."], tuple(Value(str(value), text) for value, text in pairs))
    return Entry(f"Varied: {name}", [f"{about}: {', '.join(meanings)}."])


def _fixed(plan: Plan, study: Study) -> list[Entry]:
    """The factors with one value."""
    fixed = {}
    for cell in plan.cells.values():
        fixed |= {name: value for name, value in cell["factors"].items() if name not in (*study.factors, "seed")}
    lines = [f"{name} {value}: {about_value(plan.spec, name, value)}." for name, value in fixed.items()]
    return [Entry("The same for all", lines)]


def _teachers(plan: Plan, study: Study) -> list[str]:
    if not study.teachers:
        return ["No student of this study has a teacher."]
    found = [_model(plan, row) for row in study.teachers]
    alike = list(dict.fromkeys(found))
    if len(alike) == 1:
        return [f"{len(found)} teachers: {alike[0]}" if len(found) > 1 else alike[0]]
    names = [row.label.removeprefix(f"{TEACHER}, ") for row in study.teachers]
    return [f"{name}: {text}" for name, text in zip(names, found, strict=True)]


def _students(plan: Plan, study: Study) -> list[str]:
    rows = {}
    for row in study.rows:
        rows.setdefault(_model(plan, row), []).append(row)
    if len(rows) == 1:
        return list(rows)
    return [f"{_shared(study, alike)}: {text}" for text, alike in rows.items()]


def _shared(study: Study, rows: list) -> str:
    """The values of factors that these rows share, as text."""
    first = rows[0].factors
    same = {name: value for name, value in first.items() if all(row.factors.get(name) == value for row in rows)}
    same = {name: value for name, value in same.items() if any(row.factors.get(name) != value for row in study.rows)}
    return ", ".join(f"{name} {value}" for name, value in same.items()) or "; ".join(row.label for row in rows)


def _model(plan: Plan, row: Row) -> str:
    """Parameters, architecture and updates of a model, as far as they are known."""
    trainings = [plan.stages[name] for run in row.runs for name in run.stages if plan.stages[name].kind in KINDS]
    training = trainings[-1] if trainings else None
    parameters, shape = row.parameters(), _shape(training)
    updates = training.updates if training else None
    if updates is None:
        found = [result["updates"] for on in row.runs[0].results for result in row.found(on) if "updates" in result]
        updates = next(iter(found), None)
    size = "parameters are not known yet" if parameters is None else f"{parameters:,} parameters"
    parts = [_together(row, trainings), size, shape, "" if updates is None else f"{updates:,} updates"]
    return ", ".join(filter(None, parts))


def _together(row: Row, trainings: list) -> str:
    """How many teachers a row is, for several that translate together; else empty."""
    found = [len(result.get("members", ())) for on in row.runs[0].results for result in row.found(on)]
    count = max(found, default=0 if any(one.kind != TEACHER for one in trainings) else len(trainings))
    return f"{count} teachers together" if count > 1 else ""


KINDS = (TEACHER, "student", "federated")


def _shape(training: Stage | None) -> str:
    """Architecture, layers and width from the command of a training."""
    if training is None:
        return ""
    words = training.command
    given = {word: after for word, after in pairwise(words) if word.startswith("--")}
    layers = [given.get(f"--{side}-layers") for side in ("encoder", "decoder")]
    parts = [given.get("--arch", "")]
    parts.append(f"{' + '.join(layers)} layers" if None not in layers else "")
    parts.append(f"width {given['--encoder-embed-dim']}" if "--encoder-embed-dim" in given else "")
    return ", ".join(filter(None, parts))


def _seeds(study: Study) -> str:
    seeds = list(dict.fromkeys(run.seed for row in study.rows for run in row.runs if run.seed is not None))
    counts = sorted({len(row.runs) for row in study.rows})
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    named = f" ({', '.join(map(str, seeds))})" if 0 < len(seeds) <= SHOWN_SEEDS else ""
    return f"{number} per student{named}; one per teacher."


def _measured(plan: Plan, study: Study) -> list[str]:
    metrics = ", ".join(METRICS.get(name, name) for name in study.metrics()) or "BLEU"
    given = plan.spec.sections["evaluate"]
    beam = f", beam {given['beam']}" if given.get("beam") else ""
    by = ", decoded by CTranslate2" if given.get("backend") == "ctranslate2" else ""
    lines = [f"{metrics} of the translations of {', '.join(study.sets)}{beam}{by}."]
    for on in study.sets:
        subset, _, level = on.partition("@")
        if level:
            lines.append(f"{on}: {noisy(plan.spec, level, f'the subset {subset}')}.")
    return lines
