"""Parts of the training set: the setting `part`, and teachers that are the local models of parts.

    part: [1, 2, 3, whole]                     # whose training set the student of a cell has
    teachers:
      two: {part: 2}                           # the local model of part 2
      others: others                           # the local models of all parts but that of the cell
      all: all                                 # the local models of all parts
      wide: [{part: 1}, {part: 2, arch: kd_student_9m}]

The section `partition` says how the training set is divided. The local model of a part is the student that the method
`ce` trains on this part with the settings of the cell, so it is the same stage as the student of such a cell. Further
keys of an entry change its options as a student.
"""

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.yaml_file import check_keys
from fairseq_kd.study.sections import SET_BY_STUDY

PART, WHOLE = "part", "whole"
OTHERS, ALL = "others", "all"
WORDS = (OTHERS, ALL)
PARTS = "parts"  # value of `peers`: the local models of all parts
LOCAL = "local"  # key in the settings for a teacher: whether it is a local model


def check_part(path, value) -> None:
    """Raises KDError unless `value` is the number of a part, or WHOLE. path: of the spec."""
    if value != WHOLE and (type(value) is not int or value < 1):
        raise KDError(f"{path}: the factor {PART} has the value {value!r}; a value must be the number of a part from "
                      f"1, or {WHOLE}")  # fmt: skip


def read_local(path, where: str, given: dict) -> dict:
    """An entry of the factor teachers that names a part. Raises KDError for options that it cannot have."""
    check_keys(path, where, given, valid=tuple(given))
    number = given[PART]
    if number not in WORDS and (type(number) is not int or number < 1):
        raise KDError(f"{path}: {where} has the part {number!r}; it must be the number of a part from 1, {OTHERS} or "
                      f"{ALL}")  # fmt: skip
    for key in given:
        if key in SET_BY_STUDY["student"] or key == "checkpoint":
            raise KDError(f"{path}: {key} in {where} cannot stand beside {PART}: the teacher is the student of method "
                          "ce on this part, with the seed of the cell; leave it out")  # fmt: skip
    return dict(given)


def is_local(variation: dict) -> bool:
    """Whether an entry of the factor teachers is a local model, or stands for several."""
    return PART in variation


def has_local(variations) -> bool:
    """Whether any of the teachers is a local model. variations: of a cell, or None."""
    return any(map(is_local, variations or ()))


def has_others(variations) -> bool:
    """Whether the teachers of a cell depend on its own part."""
    return any(one.get(PART) == OTHERS for one in variations or ())


def number_of_parts(path, partition: dict) -> int:
    """The number of parts. partition: the section of a cell. Raises KDError unless the section says it and the rule."""
    for key in ("parts", "by"):
        if key not in partition:
            raise KDError(f"{path}: partition lacks {key!r}: parts need a section such as partition: {{parts: 3, by: "
                          "topic}, or factors such as partition.by")  # fmt: skip
    if type(partition["parts"]) is not int or partition["parts"] < 2:
        raise KDError(f"{path}: parts in partition must be a whole number from 2, found {partition['parts']!r}")
    return partition["parts"]


def expanded(path, variations, part, partition: dict, strict: bool = True):
    """The teachers of a cell with an entry for each part in place of WORDS; None as it is.

    part: of the cell. partition: its section. strict: whether OTHERS in a cell with the whole training set is an error;
    else it stands for all parts. Raises KDError for a part that does not exist.
    """
    if not has_local(variations):
        return variations
    count, found = number_of_parts(path, partition), []
    for one in variations:
        if not is_local(one):
            found.append(one)
            continue
        if one[PART] == OTHERS and part == WHOLE and strict:
            raise KDError(f"{path}: teachers {OTHERS} are the local models of the other parts, and this cell has the "
                          f"whole training set: give {PART}, or teachers {ALL}")  # fmt: skip
        numbers = range(1, count + 1) if one[PART] in WORDS else [check_exists(path, one[PART], count)]
        found += [one | {PART: number} for number in numbers if one[PART] != OTHERS or number != part]
    return found


def check_exists(path, part, count: int):
    """The number of a part, or WHOLE, as it is. Raises KDError for a number above the number of parts."""
    if part != WHOLE and part > count:
        raise KDError(f"{path}: part {part} does not exist: the partition has {count} parts")
    return part


def for_local(settings: dict, variation: dict) -> dict:
    """The settings of a cell with which a local model is trained. variation: its entry, with the number of its part."""
    own = {name: value for name, value in variation.items() if name != PART}
    assigned = settings["assigned"] | {f"student.{name}" for name in own}
    student = settings["student"] | own
    return settings | {PART: variation[PART], "student": student, "teacher": {}, "assigned": assigned, LOCAL: True}
