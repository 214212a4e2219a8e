"""The options of a checkpoint of a task with language tokens (`multilingual`), for one language pair.

Only the options of KEPT are taken from a checkpoint, and each must have the type that fairseq writes. All others have
the defaults of the task, so a checkpoint can name no file outside of the folder of its dictionaries. There are
dict.SOURCE.txt, dict.TARGET.txt and, under its own name, the list of its languages (--lang-dict).
"""

import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path

from fairseq_kd.artifacts.data_bin import language_pairs
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_data_bin
from fairseq_kd.inference.multilingual import BART, LANGUAGE, MULTI, STYLES, multilingual_task

logger = logging.getLogger(__name__)
ENCODER = (None, "src", "tgt")
DICTIONARIES = ("fixed_dictionary", "source_dict", "target_dict")  # options that name a file
MOST_LANGUAGES = 10_000


def _is(kind):
    return lambda value: type(value) is kind


def _is_pair(value) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(one) in (str, type(None)) for one in value)


def _is_text_list(value) -> bool:
    return isinstance(value, list | tuple) and all(type(one) is str for one in value)


POSITIONS = {f"max_{side}_positions": _is(int) for side in ("source", "target")}
KEPT = {  # task -> option -> whether a value is one that fairseq writes
    BART: {"prepend_bos": _is(bool), **POSITIONS},
    MULTI: {
        "encoder_langtok": lambda value: value in ENCODER,
        "decoder_langtok": _is(bool),
        "lang_tok_style": lambda value: type(value) is str and value in STYLES,
        "lang_tok_replacing_bos_eos": _is(bool),
        "langtoks_specs": _is_text_list,
        **POSITIONS,
    },
}


def own_options(path, recorded: Namespace, data, languages=(None, None)) -> Namespace:
    """The options with which this process sets up the task of a checkpoint, for one language pair.

    path: of the checkpoint. recorded: its options. data: the data-bin; languages: (source, target), for a checkpoint
    that records none or several.
    Raises KDError for an option that fairseq does not write, and when the language pair is not known.
    """
    name = recorded.task
    found = _defaults(name)
    for option, is_written in KEPT[name].items():
        if hasattr(recorded, option):
            value = getattr(recorded, option)
            if not is_written(value):
                raise KDError(_not_written(path, option, value))
            setattr(found, option, value)
    listed = _languages(path, recorded, data)
    found.source_lang, found.target_lang = _pair(path, recorded, data, languages)
    for lang in (found.source_lang, found.target_lang):
        if lang not in listed:
            raise KDError(f"{path} was trained with the languages {', '.join(listed)}; {lang} is not one of them")
    found.data, found.langs = str(data), ",".join(listed)
    if name == MULTI:
        found.langs, found.lang_pairs = listed, [f"{found.source_lang}-{found.target_lang}"]
        _take_tokens(path, found, recorded)
    return found


def warn_if_not_opened(path, recorded: Namespace) -> None:
    """Log a warning when a checkpoint names the files of its dictionaries, which are not opened."""
    for option in DICTIONARIES:
        if file := getattr(recorded, option, None):
            logger.warning(
                f"{path} was trained with --{option.replace('_', '-')} {str(file)[:80]}. That file is not opened: "
                "dict.LANG.txt of the data-bin of the training is taken instead. If they differ, put a copy of the "
                "file as dict.LANG.txt of both languages into a folder, and give that folder"
            )


def first_pair(path, recorded) -> tuple:
    """The language pair with which fairseq-train builds a model of several pairs, else (None, None).

    recorded: the options of the task of the checkpoint `path`. Raises KDError for options that fairseq does not write.
    """
    if multilingual_task(recorded) != MULTI:
        return None, None
    return _recorded_pairs(path, recorded)[0]


def _defaults(name: str) -> Namespace:
    """The default options of the task, and what it takes from other options of a command."""
    from fairseq.tasks import TASK_REGISTRY

    parser = ArgumentParser(argument_default=None)
    TASK_REGISTRY[name].add_args(parser)
    found = parser.parse_args([".", *(["--lang-pairs", "-"] if name == MULTI else [])])
    # what fairseq takes from the options of a training
    more = {"task": name, "train_subset": "train", "required_seq_len_multiple": 1, "seed": 1, "dataset_impl": None}
    vars(found).update(more | {"upsample_primary": 1, "eval_bleu": False, "max_source_positions": 1024})
    return found


def _take_tokens(path, found: Namespace, recorded: Namespace) -> None:
    """Take the language tokens of the usual data ("main"), and whether the dictionary has a mask."""
    tokens = getattr(recorded, "langtoks", None) or {}
    extra = getattr(recorded, "extra_data", None) or {}
    for option, value in (("langtoks", tokens), ("extra_data", extra)):
        if not isinstance(value, dict):
            raise KDError(_not_written(path, option, value))
    if "main" in tokens:
        if not _is_pair(tokens["main"]):
            raise KDError(_not_written(path, "langtoks", tokens))
        found.langtoks = {"main": tuple(tokens["main"])}
    found.extra_data = {"mono_dae": ""} if "mono_dae" in extra else None


def _languages(path, recorded: Namespace, data) -> list[str]:
    """All languages of the training, in the order of their tokens in the dictionary."""
    given, file = getattr(recorded, "langs", None), getattr(recorded, "lang_dict", None)
    if file is not None and type(file) is not str:
        raise KDError(_not_written(path, "lang_dict", file))
    if file and not given:
        listed = [line.strip() for line in _language_file(path, file, data).splitlines() if line.strip()]
    elif given:
        listed = given.split(",") if type(given) is str else given
    else:  # as fairseq infers them
        listed = sorted({lang for pair in _recorded_pairs(path, recorded) for lang in pair})
    fits = _is_text_list(listed) and len(listed) <= MOST_LANGUAGES and all(map(LANGUAGE.fullmatch, listed))
    if not fits or not listed:
        raise KDError(_not_written(path, "langs", listed))
    return list(listed)


def _language_file(path, file: str, data) -> str:
    """The text of the file of --lang-dict in the folder of the dictionaries, under its own name."""
    place = Path(data) / Path(file).name
    if place.is_file() and place.stat().st_size <= 100 * MOST_LANGUAGES:
        return place.read_text(encoding="utf-8", errors="replace")
    raise KDError(
        f"{path} was trained with --lang-dict {file}, which lists its languages. Only a copy in the folder of its "
        f"dictionaries is read: put a copy of that file at {place}"
    )


def _pair(path, recorded: Namespace, data, languages) -> tuple[str, str]:
    """The language pair: the given one; or of the checkpoint, if it has one; or of the data-bin, if that shows one."""
    if recorded.task == BART:
        own = getattr(recorded, "source_lang", None), getattr(recorded, "target_lang", None)
        if all(type(lang) is str for lang in own):
            return own
    if all(languages):
        return tuple(languages)
    check_data_bin(data)
    found = language_pairs(data)
    if len(found) != 1 and recorded.task == MULTI:
        own = _recorded_pairs(path, recorded)
        found = own if len(own) == 1 else found
    if len(found) != 1:
        raise KDError(
            f"{path} translates several language pairs, and {data} does not show a single one: give the pair with "
            "--lang-pair SOURCE-TARGET"
        )
    return found[0]


def _recorded_pairs(path, recorded: Namespace) -> list[tuple[str, str]]:
    pairs = getattr(recorded, "lang_pairs", None)
    pairs = pairs.split(",") if type(pairs) is str else pairs
    if not pairs or not _is_text_list(pairs) or not all(pair.count("-") == 1 for pair in pairs):
        raise KDError(_not_written(path, "lang_pairs", pairs))
    return [tuple(pair.split("-")) for pair in pairs]


def _not_written(path, option: str, value) -> str:
    return (
        f"{path} has {str(value)[:80]!r} in the option --{option.replace('_', '-')} of its task, which fairseq-train "
        "does not write: copy the checkpoint again from its source"
    )
