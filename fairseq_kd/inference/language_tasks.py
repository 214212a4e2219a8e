"""Configure the task of a checkpoint that may add language tokens to its dictionaries.

translation_from_pretrained_bart and translation_multi_simple_epoch keep their options in an argparse.Namespace, name
their dictionaries in further options, and add a token per language behind the entries of the files.
"""

import os
from pathlib import Path

from fairseq_kd.artifacts.data_bin_check import read_dictionary
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_one_folder
from fairseq_kd.inference.frozen import configure_own_task

BART, MULTI = ADDS_LANGUAGES = ("translation_from_pretrained_bart", "translation_multi_simple_epoch")
# options that name the file of a dictionary -> the side that it belongs to, 0 for source and 1 for target
DICTIONARY_FILES = {"fixed_dictionary": 0, "source_dict": 0, "target_dict": 1}


def configure_any_task(path, state, data=None, languages=None, data_option: str = "--data") -> tuple[str, str]:
    """Complete the task's configuration in `state`, as `configure_own_task` does; return (source, target).

    data: folder of the dictionaries, None: the recorded one. data_option: the option that gives it. languages: for a
    checkpoint that records none; None: the first of its pairs. Raises KDError when a dictionary is missing.
    """
    task = state["cfg"].task
    if task_name(task) not in ADDS_LANGUAGES:
        configure_own_task(path, state, data, languages or (None, None), data_option=data_option)
        return task.source_lang, task.target_lang
    if data is not None:
        check_one_folder(data, data_option)
        task.data = str(data)
    task.data = str(task.data).split(os.pathsep)[0]
    task.eval_bleu = False
    readable(task)
    languages = languages or recorded_languages(task) or language_pairs_of(task)[0]
    for side, lang in enumerate(languages):
        read_file(task, lang, side, data_option)
    return languages


def task_name(task_cfg) -> str:
    """The name under which the task is registered."""
    return str(getattr(task_cfg, "task", None) or getattr(task_cfg, "_name", None))


def recorded_languages(task_cfg) -> tuple[str, str] | None:
    """(source, target) of the configuration; None if it has none or several pairs."""
    found = (getattr(task_cfg, "source_lang", None), getattr(task_cfg, "target_lang", None))
    return found if all(found) else None


def language_pairs_of(task_cfg) -> list[tuple[str, str]]:
    """The pairs of translation_multi_simple_epoch, [] for other tasks."""
    pairs = getattr(task_cfg, "lang_pairs", None) or []
    return [tuple(pair.split("-")) for pair in (pairs.split(",") if isinstance(pairs, str) else pairs)]


def readable(task_cfg):
    """The configuration, in which truth values that translation_multi_simple_epoch evaluates are text.

    The task replaces the text by its value, which a checkpoint then holds, and which fairseq cannot evaluate again.
    """
    for option in ("left_pad_source", "left_pad_target"):
        if task_name(task_cfg) == MULTI and isinstance(getattr(task_cfg, option, None), bool):
            setattr(task_cfg, option, str(getattr(task_cfg, option)))
    return task_cfg


def read_file(task_cfg, lang: str, side: int, option: str):
    """The dictionary in the file that the task reads. side: 0 for source, 1 for target.

    option: the option that gives the folder. Raises KDError when the file does not exist.
    """
    options = ["fixed_dictionary", "source_dict" if side == 0 else "target_dict"]
    given = next(filter(None, (getattr(task_cfg, name, None) for name in options)), None)
    path = Path(given or Path(str(task_cfg.data)) / f"dict.{lang}.txt")
    if not path.is_file():
        raise KDError(
            f"{path} is not there, but the checkpoint was trained with that dictionary. Say where it is now: "
            f"{option} FOLDER"
        )
    return read_dictionary(path)
