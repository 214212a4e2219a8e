"""Compare dictionaries by content, because word-level KD needs the same token at every index."""

import logging
from itertools import zip_longest
from pathlib import Path

from fairseq_kd.artifacts.data_bin_check import read_dictionary
from fairseq_kd.core.errors import KDError

TRAINED_AND_GIVEN = ("the checkpoint's training", "DATA_BIN")  # how error messages name two sets of dictionaries
logger = logging.getLogger(__name__)


def first_difference(one, other) -> tuple | None:
    """(index, symbol of `one`, symbol of `other`) at the first index where two fairseq dictionaries differ.

    The symbol is "nothing" behind the end of a dictionary. None when both have the same symbols.
    """
    if one.symbols == other.symbols:
        return None
    for index, found in enumerate(zip_longest(one.symbols, other.symbols)):
        if found[0] != found[1]:
            return index, *("nothing" if symbol is None else symbol for symbol in found)
    raise AssertionError("lists that differ have a first difference")


def check_same_dictionary(
    one, other, side: str, names: tuple[str, str] = ("teacher", "student"), begins: bool = False
) -> None:
    """Compare two fairseq dictionaries symbol by symbol.

    side: "source" or "target"; names: the owner of each dictionary; both for the error message. begins: whether it is
    enough that `one` begins with `other`.
    Raises KDError that names the first difference.
    """
    if one is None or other is None:
        raise KDError(f"the task has no {side} dictionary: kd_word needs a translation task")
    difference = first_difference(one, other)
    if difference is None or (begins and difference[0] >= len(other)):
        return
    index, *found = difference
    remedy = "--srcdict" if side == "source" else "--tgtdict"
    raise KDError(
        f"the {side} dictionaries of {names[0]} and {names[1]} differ: they have {len(one)} and {len(other)} entries, "
        f"and the first difference is at index {index}: {names[0]} {found[0]!r}, {names[1]} {found[1]!r}. Both must "
        f"have the same token at every index: binarise the data of {names[1]} with the dictionary of {names[0]} "
        f"(fairseq-preprocess {remedy} DICTIONARY, or fairseq-kd prepare --like DATA_BIN)"
    )


def warn_if_newer(dictionary, checkpoint) -> None:
    """Log a warning when `dictionary` is newer than the `checkpoint` that was trained with it.

    A checkpoint only records the path of its dictionary. If the data was made again, that file may have changed.
    """
    if Path(dictionary).stat().st_mtime > Path(checkpoint).stat().st_mtime:
        logger.warning(
            f"{dictionary} is newer than {checkpoint}, which was trained with the dictionary at that place: if "
            "the data was made again in between, the same index may mean another token"
        )


def check_recorded_dictionaries(checkpoint, recorded: str, task_cfg) -> str:
    """Compare the dictionaries of DATA_BIN with the dictionaries of the training, and return how they were compared.

    "content": two files, symbol by symbol. "place": DATA_BIN is the data-bin of the training. "size": the dictionaries
    of the training no longer exist, and only a dictionary of another size fails, when the weights are loaded.
    """
    for side, lang in (("source", task_cfg.source_lang), ("target", task_cfg.target_lang)):
        trained_with = Path(recorded) / f"dict.{lang}.txt"
        if not trained_with.is_file():
            return "size"
        here = Path(task_cfg.data) / f"dict.{lang}.txt"
        if trained_with.samefile(here):
            warn_if_newer(here, checkpoint)
            return "place"
        check_same_dictionary(read_dictionary(trained_with), read_dictionary(here), side, TRAINED_AND_GIVEN)
    return "content"
