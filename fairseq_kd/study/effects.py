"""Which settings have an effect on a cell. A factor without an effect on a cell is not a part of the cell."""

from fairseq_kd.study.methods import (
    BEST_MODEL,
    CHOSEN,
    CONSOLIDATED,
    FEDERATED,
    METHODS,
    RANDOM,
    REFRESH,
    STUDENT,
    STUDENT_DECODE,
    needs_teacher,
    takes_option,
)
from fairseq_kd.study.parts import PART, PARTS, WHOLE, has_local, is_local
from fairseq_kd.study.sections import SOURCE_TEXT
from fairseq_kd.study.teachers import TEACHERS, trains_any
from fairseq_kd.study.transfer import TEXT, TRANSFER, UNION, is_without_gold, learns_from_decoded
from fairseq_kd.study.transfer import has_effect as transfer_has_effect


def has_effect(setting: str, values: dict) -> bool:
    """Whether a setting has an effect on a cell with these values of SETTINGS.

    values["noisy"]: whether the training or the evaluation data of the cell have noise. values["existing"]: the
    settings of EXISTING that the cell has: what exists is not made, so the options for making it have no effect.
    values["parts"]: the number of parts, 0 without a partition. values["others"]: whether the teachers of the cell
    depend on its part.
    """
    if values["method"] == FEDERATED:
        return _on_rounds(setting, values)
    section, _, option = setting.partition(".")
    method = METHODS[values["method"]]
    has_teacher = needs_teacher(values["method"], values["init"])
    trains_teacher = has_teacher and trains_any(values[TEACHERS], values["existing"])
    trains_student = method.trained or (has_teacher and has_local(values[TEACHERS]))
    if setting == "teacher.checkpoint":
        return has_teacher and (values[TEACHERS] is None or not all(map(is_local, values[TEACHERS])))
    if setting == TEACHERS:
        return has_teacher
    if setting in ("teacher-choice", "budget.teacher") or section == "teacher":
        return trains_teacher
    if section == "select":
        return _chooses(values) or (trains_teacher and values["teacher-choice"] is not None)
    if setting in ("init", "compact"):
        return method.trained
    if setting in ("seed", "budget.student") or section == "student":
        return trains_student
    if section == "common":
        return trains_student or trains_teacher
    if setting == "noise":
        return trains_student or (trains_teacher and values["teacher-noise"] == "same")
    if setting == "teacher-noise":
        return trains_teacher and values["noise"] > 0
    if section == "noise":
        return values["noisy"]
    if section == FEDERATED:
        return False
    if setting == PART:
        return depends_on_part(values)
    if section == "partition":
        return _uses_partition(values)
    return _on_learning(section, option, method, values)


def as_consolidation(values: dict, parts: int) -> dict:
    """The settings of a federated cell for the student with which it begins: `word`, with the models of all parts.

    parts: their number.
    """
    models, transfer = [{PART: number} for number in range(1, parts + 1)], values[TRANSFER] or UNION
    own = {"method": "word", "init": "best-score", TEACHERS: models, TRANSFER: transfer, PART: WHOLE}
    return values | own


def _on_rounds(setting: str, values: dict) -> bool:
    """As `has_effect`, for the method federated. Options of what is made before the rounds depend on their start."""
    section, init = setting.partition(".")[0], values["init"]
    always = ("method", "federated", "student", "common", "partition", "evaluate", "data", "init", "seed", "compact")
    if section in always or setting == "noise":
        return True
    if section == "noise":
        return bool(values["noisy"])
    if setting == "budget.student":
        return init != RANDOM
    if init == CONSOLIDATED:
        return setting not in (PART, TEACHERS) and has_effect(setting, as_consolidation(values, values["parts"]))
    return section == "select" and init in CHOSEN


def _chooses(values: dict) -> bool:
    """Whether a stage chooses among the models of a cell."""
    return values["method"] == BEST_MODEL or (METHODS[values["method"]].trained and values["init"] in CHOSEN)


def depends_on_part(values: dict) -> bool:
    """Whether it makes a difference which part a cell has.

    A student that learns from a transfer set alone, from the same teachers and the same start as the students of the
    other parts, is the same student for all parts.
    """
    method = values["method"]
    if needs_teacher(method, values["init"]) and values.get("others"):
        return True
    if not METHODS[method].trained:
        return False
    if not is_without_gold(values) or values["mix-gold"] > 0 or method == "mutual":
        return True
    if values["init"] in CHOSEN:
        return not _has_all(values)
    return values["init"] == STUDENT or (values["init"] == RANDOM and method == "dp")


def _has_all(values: dict) -> bool:
    """Whether the local models of all parts are among the teachers, each with the options of the student."""
    plain = [one[PART] for one in values[TEACHERS] or () if one.keys() == {PART}]
    return values["parts"] > 0 and sorted(plain) == list(range(1, values["parts"] + 1))


def _uses_partition(values: dict) -> bool:
    if needs_teacher(values["method"], values["init"]) and has_local(values[TEACHERS]):
        return True
    if not METHODS[values["method"]].trained:
        return False
    of_parts = values["method"] == "mutual" and values["peers"] == PARTS
    return of_parts or (values[PART] != WHOLE and depends_on_part(values))


def _on_learning(section: str, option: str, method, values: dict) -> bool:
    """As `has_effect`, for the settings about what a student learns from its teachers and peers."""
    cached = method.cached and not method.is_online(values["signal"])
    if section == "kd":
        how = {"several": len(values[TEACHERS] or ()) > 1, "online": method.is_online(values["signal"])}
        return takes_option(values["method"], option, **how) if option else method.criterion is not None
    if section == "cache":
        return cached and _is_used(f"cache.{option}", "cache.folder", values)
    if section == "decode":
        reads_text = f"{section}.{option}" != SOURCE_TEXT or values[TRANSFER] in (None, TEXT)
        decoded = method.decoded or is_without_gold(values)
        return decoded and reads_text and _is_used(f"decode.{option}", "decode.data-bin", values)
    named = {"signal": method.cached, "mix-gold": learns_from_decoded(values) or method.rounds}
    named |= {"peers": values["method"] == "mutual", REFRESH: method.rounds, STUDENT_DECODE: method.rounds}
    named |= {TRANSFER: transfer_has_effect(values["method"])}
    return named.get(section, True)


def _is_used(setting: str, existing: str, values: dict) -> bool:
    """Whether a setting of a section is used: with an artefact that exists only the setting that names it."""
    return setting == existing or existing not in values["existing"]
