"""Dictionaries are compared by content: word-level KD needs the same meaning behind every index."""

import logging
from itertools import zip_longest
from pathlib import Path

from fairseq_kd.core.errors import KDError

logger = logging.getLogger(__name__)


def first_difference(one, other) -> tuple | None:
    """(index, symbol there in `one`, in `other`) of the first symbol that differs, "nothing" where a dictionary has
    ended; None when two fairseq dictionaries have the same symbols."""
    if one.symbols == other.symbols:
        return None
    for index, found in enumerate(zip_longest(one.symbols, other.symbols)):
        if found[0] != found[1]:
            return index, *("nothing" if symbol is None else symbol for symbol in found)
    raise AssertionError("lists that differ have a first difference")


def check_same_dictionary(teacher, student, side: str) -> None:
    """Compare two fairseq dictionaries symbol by symbol.

    side: "source" or "target", for the message. Raises KDError that names the first difference.
    """
    if teacher is None or student is None:
        raise KDError(f"the task has no {side} dictionary: kd_word needs a translation task")
    difference = first_difference(teacher, student)
    if difference is None:
        return
    index, *found = difference
    remedy = "--srcdict" if side == "source" else "--tgtdict"
    raise KDError(
        f"teacher has {len(teacher)} {side} types, student {len(student)}; the first difference is at index {index}: "
        f"teacher {found[0]!r}, student {found[1]!r}. Word-level KD needs one vocabulary: binarise the student's data "
        f"with the teacher's dictionary (fairseq-preprocess {remedy} TEACHER_DICT, or fairseq-kd prepare --like "
        "TEACHER_DATA_BIN)"
    )


def warn_if_newer(dictionary, checkpoint) -> None:
    """Log a warning when `dictionary` is newer than the `checkpoint` that was trained with it.

    A checkpoint records only where its dictionary was. If the data was made again, the file there may be another.
    """
    if Path(dictionary).stat().st_mtime > Path(checkpoint).stat().st_mtime:
        logger.warning(
            f"{dictionary} is newer than {checkpoint}, which was trained with the dictionary at that place: if "
            "the data was made again in between, their indices may not mean the same"
        )
