"""Short forms of factors in a spec, and the labelled values that they stand for."""

from fairseq_kd.study.sections import EXISTING, SOURCE_TEXT
from fairseq_kd.study.teachers import TEACHERS, read_teachers


def with_short_forms(path, factors):
    """The factors of the spec `path`, in which `teacher.checkpoint: {big: FILE}` is {big: {teacher.checkpoint: FILE}}.

    It is a short form for the settings in EXISTING and for SOURCE_TEXT, whose values are paths, and for TEACHERS. Other
    factors stay as they are. Raises KDError for teachers that cannot be used.
    """
    if not isinstance(factors, dict):
        return factors  # `check_factors` refuses it
    found = dict(factors)
    for name in (*EXISTING, SOURCE_TEXT):
        paths = str | list if name == SOURCE_TEXT else str
        if isinstance(values := found.get(name), dict):
            found[name] = {label: {name: path} if isinstance(path, paths) else path for label, path in values.items()}
    if TEACHERS in found:
        found[TEACHERS] = read_teachers(path, found[TEACHERS])
    return found
