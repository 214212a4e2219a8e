"""fairseq's two tasks that add language tokens: where the tokens are, and which language pair is read.

translation_from_pretrained_bart    mBART: the tokens [LANG] end source and target
translation_multi_simple_epoch      M2M-100: the tokens __LANG__ (or [LANG]) begin source and target, as
                                    --encoder-langtok and --decoder-langtok say, or replace the ends

Both are older tasks of fairseq, whose options are a namespace that nothing has checked: `multilingual_options` does.
"""

import re
from argparse import Namespace
from dataclasses import dataclass

from fairseq_kd.core.errors import KDError

BART, MULTI = MULTILINGUAL = ("translation_from_pretrained_bart", "translation_multi_simple_epoch")
TRANSLATION = "translation"
STYLES = {"multilingual": "__{}__", "mbart": "[{}]"}  # --lang-tok-style -> the token of a language
MASK = "<mask>"
LANGUAGE = re.compile(r"[^\s\[\],/]{1,60}")  # it is part of the names of files


def multilingual_task(task_cfg) -> str | None:
    """The name of the task, if the options of a checkpoint or of a training are of a task that adds language tokens."""
    name = getattr(task_cfg, "task", None) if isinstance(task_cfg, Namespace) else None
    return name if name in MULTILINGUAL else None


@dataclass(frozen=True)
class Layout:
    """Where a task puts language tokens. PLAIN is the layout of a task that adds none to the dictionary.

    source, target: the language whose token is on that side, "src" or "tgt", or None. at_end: whether they are after
    the end of the sentence (mBART), else they are before its beginning. replaces: whether they take the place of the
    end of the source and of the first input of the decoder. bos: whether each side begins with <s>. style:
    of --lang-tok-style, "" for PLAIN.
    """

    source: str | None = None
    target: str | None = None
    at_end: bool = False
    replaces: bool = False
    bos: bool = False
    style: str = ""

    def __str__(self) -> str:
        if self == PLAIN:
            return "no language tokens"
        where = "at the ends" if self.at_end else "in place of the ends" if self.replaces else "at the beginnings"
        sides = {"source": self.source, "target": self.target}
        listed = ", ".join(f"{side}: {token or 'none'}" for side, token in sides.items())
        return f"language tokens {where} ({listed}{', with <s>' if self.bos else ''})"


PLAIN = Layout()


def layout_of(task_cfg) -> Layout:
    """The layout of the batches of a task. task_cfg: its options, after the task was set up."""
    name = multilingual_task(task_cfg)
    if name is None:
        return PLAIN
    if name == BART:
        return Layout("src", "tgt", at_end=True, bos=bool(getattr(task_cfg, "prepend_bos", False)), style="mbart")
    source, target = task_cfg.langtoks["main"]
    replaces = bool(task_cfg.lang_tok_replacing_bos_eos)
    return Layout(source, target, False, replaces, False, task_cfg.lang_tok_style)


def added_tokens(task) -> tuple[int | None, int | None]:
    """The ids of the language tokens that a task adds to (source, target). task: set up for one language pair."""
    layout, cfg = layout_of(task.cfg), task.cfg
    if multilingual_task(cfg) == MULTI:
        source = task.data_manager.get_encoder_langtok(cfg.source_lang, cfg.target_lang, layout.source)
        return source, task.data_manager.get_decoder_langtok(cfg.target_lang, layout.target)
    if layout == PLAIN:
        return None, None
    token = STYLES[layout.style].format
    return (
        task.source_dictionary.index(token(cfg.source_lang)),
        task.target_dictionary.index(token(cfg.target_lang)),
    )


def read_pair(text: str | None) -> tuple[str | None, str | None]:
    """(source, target) of --lang-pair SOURCE-TARGET, (None, None) without it. Raises KDError for other text."""
    if text is None:
        return None, None
    source, hyphen, target = text.partition("-")
    if not (source and hyphen and target) or not LANGUAGE.fullmatch(source) or not LANGUAGE.fullmatch(target):
        raise KDError(f"--lang-pair {text}: give SOURCE-TARGET, such as de-en")
    return source, target


def check_pair(path, found: tuple[str, str], asked) -> None:
    """Raises KDError when a checkpoint translates another pair than --lang-pair. asked: see `read_pair`."""
    if all(asked) and tuple(found) != tuple(asked):
        raise KDError(f"--lang-pair {'-'.join(asked)}: {path} translates {'-'.join(found)}, and nothing else")


def configuration(task):
    """The options of the task of a running fairseq-train, with source_lang and target_lang: of its first pair."""
    if task.cfg is not None or multilingual_task(getattr(task, "args", None)) is None:
        return task.cfg
    source, target = pairs_of(task)[0]
    return Namespace(**vars(task.args) | {"source_lang": source, "target_lang": target})


def pairs_of(task) -> list[tuple[str, str]]:
    """The language pairs (source, target) of the data of a running fairseq-train."""
    if task.cfg is not None:
        return [(task.cfg.source_lang, task.cfg.target_lang)]
    extra = (task.args.extra_lang_pairs or {}).values()
    listed = [*task.lang_pairs, *(pair for pairs in extra for pair in pairs.split(","))]
    return [tuple(pair.split("-")) if "-" in pair else (pair, pair) for pair in listed]
