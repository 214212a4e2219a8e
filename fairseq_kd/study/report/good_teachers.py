"""What makes a good teacher: the gain of its students against its loss, BLEU, calibration, entropy and agreement.

    gain of a student    its BLEU minus that of the student of `ce` with the same other factors and the same seed
    gain of a teacher    mean over its students by one method
    agreement            of a teacher and its students by one method, after the distillation

The unit is the teacher: students of one teacher are not independent, so they are averaged before the correlation.
"""

from dataclasses import dataclass
from statistics import mean

from fairseq_kd.study.report.correlate import FEWEST
from fairseq_kd.study.report.parts import HEAD, TESTS, WEAK, Part, Related, scatter, tested, why_untested
from fairseq_kd.study.report.plots import METRIC
from fairseq_kd.study.report.rows import METRICS, Row, Run, Study, label
from fairseq_kd.study.report.tables import BASELINE, NOT_DONE, Table, baseline_of

TITLE = "What makes a good teacher"
VALIDATION = "valid"
CALIBRATION, ENTROPY = "calibration: true", "entropy"
NO_STUDENT = "ensemble"  # the method whose cells are the teachers themselves


@dataclass(frozen=True)
class Property:
    """A property of a teacher. read: result of `evaluate` -> value, or None. option: of the section evaluate."""

    name: str
    axis: str
    read: object
    form: str
    option: str = ""


PROPERTIES = (
    Property("NLL", "NLL of the teacher, bits per token", lambda r: _nll(r), "{:.3f}", CALIBRATION),
    Property("BLEU", "BLEU of the teacher", lambda r: r.get(METRIC, {}).get("score"), "{:.2f}"),
    Property("ECE", "ECE of the teacher", lambda r: r.get("calibration", {}).get("ece"), "{:.4f}", CALIBRATION),
    Property(ENTROPY, "entropy of the teacher, bits per token",
             lambda r: r.get("calibration", {}).get("entropy_bits"), "{:.3f}", CALIBRATION),
)  # fmt: skip
AGREEMENT = Property("agreement", "share of tokens on which both agree", None, "{:.2%}", "agreement: true")


@dataclass(frozen=True)
class Teacher:
    """A teacher with its students. values: name of the property -> value. students: method -> [(row, run)]."""

    name: str
    sha256: str | None
    values: dict
    students: dict

    def gains(self, study: Study, on: str, method: str) -> list[float]:
        """The gain of each student that has a result, and a student of `ce` with one."""
        found = [_gain(study, on, row, run) for row, run in self.students.get(method, [])]
        return [gain for gain in found if gain is not None]

    def agreement(self, on: str, method: str) -> float | None:
        """The mean over the students that were compared with this teacher; None without any."""
        found = [(run.results[on] or {}).get("agreement") for _, run in self.students.get(method, [])]
        found = [one["top1"] for one in found if one and one["teacher"]["sha256"] == self.sha256]
        return mean(found) if found else None


def good_teachers(study: Study, results: dict) -> Part:
    """The part of the report. results: of results.json, whose teachers are in the order of `study.teachers`."""
    on = reported_set(study)
    teachers = read_teachers(study, results, on)
    methods = [name for name in study.factors.get("method", []) if any(one.gains(study, on, name) for one in teachers)]
    most = max((sum(bool(one.gains(study, on, name)) for one in teachers) for name in methods), default=0)
    if most < FEWEST:
        return Part(TITLE, absent=_why_absent(len(teachers), most))
    related = {name: tested(_related(study, on, teachers, name)) for name in methods}
    return Part(
        TITLE,
        _lines(related, on),
        [_teacher_table(study, on, teachers, methods), _table(related, on)],
        _figures(study, on, related),
    )


def reported_set(study: Study) -> str:
    """The first evaluation set that is not the validation set; the first of all where there is no other."""
    return next((on for on in study.sets if on.partition("@")[0] != VALIDATION), study.sets[0])


def read_teachers(study: Study, results: dict, on: str) -> list[Teacher]:
    """The different teachers, by their checkpoints. A teacher with several rows is evaluated in several ways."""
    found = {}
    for entry, row, users in zip(results["teachers"], study.teachers, study.users, strict=True):
        if "name" not in entry:  # a teacher that teaches only together with others has no students of its own
            found.setdefault(entry["checkpoint"], []).append((row, users))
    return [_teacher(study, pairs, on) for pairs in found.values()]


def _teacher(study: Study, pairs: list, on: str) -> Teacher:
    shown = [result for row, _ in pairs for result in row.found(on)]
    values = {one.name: _mean([one.read(result) for result in shown]) for one in PROPERTIES}
    students = {}
    for number in dict.fromkeys(number for _, users in pairs for number in users):
        row = study.rows[number]
        students.setdefault(row.factors.get("method"), []).extend((row, run) for run in row.runs)
    taught = {name: found for name, found in students.items() if name not in (BASELINE, NO_STUDENT)}
    factors = {name: value for name, value in pairs[0][0].factors.items() if name != "method"}
    sha256 = next((result.get("checkpoint_sha256") for result in shown), None)
    return Teacher(label(factors) or pairs[0][0].label, sha256, values, taught)


def _nll(result: dict) -> float | None:
    found = result.get("calibration") or result.get("gap", {}).get("evaluated", {})
    return found.get("nll_bits")


def _mean(values: list) -> float | None:
    found = [value for value in values if value is not None]
    return mean(found) if found else None


def _gain(study: Study, on: str, row: Row, run: Run) -> float | None:
    plain = baseline_of(study, row)
    theirs = [one.results[on] for one in plain.runs if one.seed == run.seed] if plain else []
    if run.results[on] is None or not theirs or theirs[0] is None:
        return None
    return run.results[on][METRIC]["score"] - theirs[0][METRIC]["score"]


def _why_absent(teachers: int, most: int) -> str:
    return (
        f"it needs {FEWEST} different teachers that have students by one method and students of {BASELINE} with the "
        f"same seeds; the study has {teachers} {'teacher' if teachers == 1 else 'teachers'}, {most} of them with such "
        "students that are evaluated"
    )


def _related(study: Study, on: str, teachers: list[Teacher], method: str) -> list[Related]:
    found = []
    for one in (*PROPERTIES, AGREEMENT):
        pairs = [(_value(teacher, one, on, method), teacher.gains(study, on, method)) for teacher in teachers]
        pairs = [(value, mean(gains)) for value, gains in pairs if value is not None and gains]
        found.append(Related(one.name, method, pairs, measured=bool(pairs)))
    return found


def _value(teacher: Teacher, one: Property, on: str, method: str) -> float | None:
    return teacher.agreement(on, method) if one is AGREEMENT else teacher.values[one.name]


def _lines(related: dict, on: str) -> list[str]:
    unmeasured = {one.name for several in related.values() for one in several if not one.measured}
    lines = [
        f"The gain of a student is its BLEU on {on} minus that of the student of {BASELINE} with the same other "
        "factors and the same seed. The unit is the teacher: the gains of all its students by one method are averaged, "
        "because students of one teacher are not independent.",
        *(line for method, several in related.items() for line in _finding(method, several)),
        WEAK.format(units="teachers"),
    ]
    return [*lines, *_unmeasured(unmeasured)]


def _unmeasured(names: set) -> list[str]:
    """How to measure these properties."""
    if METRIC.upper() in names:
        return ["The teachers are not evaluated yet."]
    lines, asked = [], {}
    for one in (*PROPERTIES, AGREEMENT):
        if one.name in names:
            asked.setdefault(one.option, []).append(one.name)
    if asked.get(CALIBRATION) == [ENTROPY]:
        del asked[CALIBRATION]
        lines = [f"Not measured: {ENTROPY}. The evaluations of the teachers are of an earlier version: remove their "
                 "folders in stages, and run the study again."]  # fmt: skip
    return lines + [
        f"Not measured: {', '.join(names)}; give evaluate: {{{option}}}." for option, names in asked.items()
    ]


def _finding(method: str, several: list[Related]) -> list[str]:
    """What the data support for one method, in plain words."""
    found = [one for one in several if one.supported]
    known = [one for one in several if one.rank is not None]
    if not known:
        return [f"{method}: no correlation can be computed.", *why_untested(several, "teachers")]
    count = max(len(one.pairs) for one in known)
    if found:
        said = " and ".join(f"with {'higher' if one.rank.value > 0 else 'lower'} {one.name}" for one in found)
        return [f"{method}: of {count} teachers, those {said} had students with a larger gain."]
    names = ", ".join(one.name for one in known)
    return [
        f"{method}: over {count} teachers no relation of the gain to {names} is supported. This does not show that "
        "there is none.",
        *why_untested(several, "teachers"),
    ]


def _teacher_table(study: Study, on: str, teachers: list[Teacher], methods: list) -> Table:
    head = ["teacher", *(one.name for one in PROPERTIES)]
    head += [title for name in methods for title in (f"gain by {name}", "students", f"agreement by {name}")]
    lines = []
    for teacher in teachers:
        line = [teacher.name, *(_text(one, teacher.values[one.name]) for one in PROPERTIES)]
        for method in methods:
            gains = teacher.gains(study, on, method)
            line += [f"{mean(gains):+.2f}" if gains else NOT_DONE, str(len(gains))]
            line.append(_text(AGREEMENT, teacher.agreement(on, method)))
        lines.append(line)
    title = f"Teachers and the gain of their students on {on}"
    return Table(title, head, lines, 1, [], "good-teachers", _uneven(lines))


def _uneven(lines: list) -> str:
    counts = {tuple(line[len(PROPERTIES) + 2 :: 3]) for line in lines}
    if len(counts) == 1:
        return ""
    return "The teachers have different numbers of students, so their means do not differ in the teacher alone."


def _text(one: Property, value: float | None) -> str:
    return NOT_DONE if value is None else one.form.format(value)


def _table(related: dict, on: str) -> Table:
    lines = [
        [method, one.name, str(len(one.pairs)), *one.cells()] for method, several in related.items() for one in several
    ]
    about = TESTS.format(units="teachers", tests="properties of a method")
    title = f"Correlation of a property of the teacher with the gain on {on}"
    return Table(title, ["method", "property", "teachers", *HEAD], lines, 2, [], "good-teachers-correlation", about)


def _figures(study: Study, on: str, related: dict) -> list:
    figures = []
    caption = "A point is one teacher: the mean gain of its students. A line is drawn where a correlation is supported."
    for number, one in enumerate((*PROPERTIES, AGREEMENT)):
        several = [found[number] for found in related.values() if found[number].pairs]
        if several:
            axes = (one.axis, f"gain of the students, {METRICS[METRIC]} on {on}")
            title = f"Gain on {on} against {one.name}{'' if one is AGREEMENT else ' of the teacher'}"
            figures.append(scatter(f"good-teachers-{one.name}-{on}", title, caption, several, axes, study))
    return figures
