"""The factor `teachers`: which teachers a cell has.

    teachers:
      one: 1                                   # the teacher of the section teacher, with seed 1
      three: [1, 2, 3]                         # three seeds
      mixed: [1, {seed: 2, dropout: 0.3}]      # other options of the section teacher
      mine: [a/checkpoint_best.pt, b.pt]       # checkpoints that exist
      others: others                           # the local models of the other parts, see `parts`

A teacher is a variation: options that change the section `teacher`. A number is its seed, a text its checkpoint. An
entry with a part is the local model of this part.

The option `teacher-schedule` lets the teachers of a cell follow each other. Its value in a study is the number of the
last update of each teacher but the last one, such as 2000 for two teachers and "2000,5000" for three; none: all of them
teach together.
"""

import itertools
import os

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.yaml_file import check_keys, check_text
from fairseq_kd.study.parts import ALL, PART, WORDS, for_local, is_local, read_local
from fairseq_kd.study.sections import SET_BY_STUDY, check_seed

TEACHERS = "teachers"
NO_SCHEDULE = "none"
FORM = "such as teachers: {one: 1, three: [1, 2, 3]}, with seeds, checkpoints or options of the section teacher"


def read_teachers(path, values) -> dict:
    """Label -> {"teachers": [variation, ...]} of the factor. path: of the spec, for messages.

    Raises KDError for a value that names no teacher, or one teacher twice.
    """
    if not isinstance(values, dict) or not values:
        raise KDError(f"{path}: the factor {TEACHERS} needs a label for each set of teachers, found {values!r}: give "
                      f"labels {FORM}")  # fmt: skip
    return {label: {TEACHERS: _several(path, label, given)} for label, given in values.items()}


def _several(path, label, given) -> list[dict]:
    where = f"the value {label!r} of the factor {TEACHERS}"
    several = [_variation(path, where, one) for one in (given if isinstance(given, list) else [given])]
    if not several:
        raise KDError(f"{path}: {where} names no teacher: give one or more, {FORM}")
    if repeated := [one for one in several if several.count(one) > 1]:
        raise KDError(f"{path}: {where} names the teacher {describe(repeated[0])} twice, which would double its "
                      "weight: leave one out, or give teacher-weights")  # fmt: skip
    return several


def _variation(path, where: str, given) -> dict:
    if given in WORDS:
        given = {PART: given}
    if type(given) is int:
        given = {"seed": given}
    elif isinstance(given, str):
        given = {"checkpoint": given}
    if not isinstance(given, dict):
        raise KDError(f"{path}: {where} has the teacher {given!r}; a teacher must be a seed, a checkpoint or options "
                      "of the section teacher")  # fmt: skip
    if is_local(given):
        return read_local(path, where, given)
    check_keys(path, where, given, valid=tuple(given))
    for key in given:
        if key in SET_BY_STUDY["teacher"]:
            raise KDError(f"{path}: {key} in {where} is set by the study; leave it out")
    if "seed" in given:
        check_seed(path, where, given["seed"])
    if "checkpoint" in given:
        check_text(path, f"the checkpoint in {where}", given["checkpoint"])
        if others := [key for key in given if key != "checkpoint"]:
            raise KDError(f"{path}: {others[0]} in {where} has no effect beside checkpoint; leave it out")
        return {"checkpoint": os.fspath(given["checkpoint"])}
    return {"seed": 1} | given  # the seed of a teacher without this factor


def describe(variation: dict) -> str:
    """A teacher in few words: "seed 2", "seed 2, dropout 0.3", "part 2", "a/checkpoint_best.pt"."""
    if "checkpoint" in variation:
        return variation["checkpoint"]
    if is_local(variation) and variation[PART] in WORDS:
        others = describe({name: value for name, value in variation.items() if name != PART})
        which = "all parts" if variation[PART] == ALL else "the other parts"
        return f"the local models of {which}" + (f" with {others}" if others else "")
    return ", ".join(f"{name} {value}" for name, value in variation.items())


def trains_any(variations: list | None, existing: set) -> bool:
    """Whether a cell trains a teacher. existing: the settings of the cell that name what exists already."""
    if variations is None:
        return "teacher.checkpoint" not in existing
    return any(not is_checkpoint(one) and not is_local(one) for one in variations)


def is_checkpoint(variation: dict) -> bool:
    """Whether a teacher exists."""
    return "checkpoint" in variation


def assigned_by(variations: list) -> list[str]:
    """The settings of the section teacher that the variations assign, each once."""
    return list(dict.fromkeys(f"teacher.{name}" for one in variations if not is_local(one) for name in one))


def settings_of_each(path, settings: dict) -> list[tuple[str | None, dict]]:
    """[(name of the teacher, settings of the cell for this teacher)]. The name is None without the factor.

    Raises KDError for a variation of a teacher that the section takes as it is.
    """
    if settings[TEACHERS] is None:
        return [(None, settings)]
    found = []
    for one in settings[TEACHERS]:
        if is_local(one):
            found.append((f"{describe(one)}, seed {settings['seed']}", for_local(settings, one)))
            continue
        section = {} if "checkpoint" in one else settings["teacher"]
        if "checkpoint" in section:
            raise KDError(f"{path}: the teacher {describe(one)} of the factor {TEACHERS} would be trained, but "
                          "checkpoint in teacher names one that exists: leave checkpoint out, or give "
                          "checkpoints in the factor")  # fmt: skip
        assigned = settings["assigned"] | {f"teacher.{name}" for name in one}
        found.append((describe(one), settings | {"teacher": section | one, "assigned": assigned}))
    return found


def schedule(path, ends, signals: list[str], budget: int) -> str:
    """The value of --teacher-schedule. ends: as in the spec `path`. signals: the words for the teachers, or for caches.

    Raises KDError unless `ends` are increasing numbers of updates, one for each teacher but the last, below the budget.
    """
    numbers = [int(word) if word.strip().isdecimal() else 0 for word in str(ends).split(",")]
    increasing = all(one < other for one, other in itertools.pairwise([0, *numbers, budget]))
    count = len(signals) - 1
    if len(numbers) != count or not increasing:
        raise KDError(f"{path}: teacher-schedule {ends} does not fit {count + 1} teachers and {budget} updates: give "
                      f"the last update of each teacher but the last one ({count} increasing, below {budget}, joined "
                      f"by commas), or {NO_SCHEDULE}")  # fmt: skip
    ending = [f"{one}@{number}" for one, number in zip(signals[:-1], numbers, strict=True)]
    return ",".join([*ending, signals[-1]])
