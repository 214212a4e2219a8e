"""Families of pre-trained translation models: which tokens and which tokeniser they need.

A family only fills in options that were not given: the tokeniser, and the tokens before and after a source and before
a target. `{source}` and `{target}` stand for the languages in the family's own codes.
"""

import re
from dataclasses import dataclass

from fairseq_kd.core.errors import KDError
from fairseq_kd.export.translator_folder import TranslatorFolder

END = "{end}"  # the end of a sentence, where the model does not add it by itself


@dataclass(frozen=True)
class Family:
    """source_prefix, source_suffix, target_prefix: tokens between spaces. optional: languages that need not be given.

    tokenisers: the names of files in the model's folder, the first choice that exists is taken. language: a regular
    expression for the language tokens and for entries without a meaning, which are never text. example: of the codes.
    """

    source_prefix: str = ""
    source_suffix: str = ""
    target_prefix: str = ""
    optional: tuple[str, ...] = ()
    tokenisers: tuple[tuple[str, ...], ...] = ()
    language: str | None = None
    example: str = ""


SHARED_PIECES = (("sentencepiece.bpe.model",), ("tokenizer.json",))
TOKENS = ("source_prefix", "source_suffix", "target_prefix")
FAMILIES = {
    "plain": Family(),
    "opus-mt": Family(
        ">>{target}<<", END, optional=("target",), tokenisers=(("source.spm", "target.spm"),), language=r">>.+<<",
        example="fra",
    ),
    "nllb": Family(
        "{source}", END, "{target}", (), (("tokenizer.json",), ("sentencepiece.bpe.model",)),
        r"[a-z]{3}_[A-Z][a-z]{3}", "deu_Latn",
    ),
    "m2m100": Family(
        "__{source}__", END, "__{target}__", (), SHARED_PIECES, r"__[a-z]{2,3}__|madeupword\d+", "de"
    ),
    "mbart50": Family("{source}", END, "{target}", (), SHARED_PIECES, r"[a-z]{2}_[A-Z]{2}", "de_DE"),
}  # fmt: skip


def fill_in(name: str, folder: TranslatorFolder, languages: dict[str, str | None], given=frozenset()) -> dict:
    """The options that the family gives: tokeniser, source_prefix, source_suffix, target_prefix.

    languages: "source", "target" -> code, or None where it was not given. given: names of TOKENS that the user gave,
    whose values here are "". The tokeniser is None where the folder has no file of a usual name.
    Raises KDError for a language that is missing, and for one that has no effect.
    """
    family = FAMILIES[name]
    tokens = {option: "" if option in given else getattr(family, option) for option in TOKENS}
    for side, code in languages.items():
        used = [option for option, text in tokens.items() if f"{{{side}}}" in text]
        if code is None and used and side not in family.optional:
            raise KDError(f"--family {name} needs --teacher-{side}-lang, for example {family.example}")
        if code is not None and not used:
            without = "" if not given else " and the tokens that were given"
            raise KDError(f"--teacher-{side}-lang {code} has no effect with --family {name}{without}; leave it out")
        if code is None:  # a model of one language pair
            tokens |= dict.fromkeys(used, "")
    end = "" if folder.config.get("add_source_eos") else folder.eos
    filled = {side: text.format(end=end, **languages) for side, text in tokens.items()}
    return filled | {"tokeniser": _tokeniser(family, folder)}


def language_tokens(name: str, vocabulary) -> set[str]:
    """The language tokens of the family in a vocabulary."""
    pattern = FAMILIES[name].language
    return set() if pattern is None else {token for token in vocabulary if re.fullmatch(pattern, token)}


def _tokeniser(family: Family, folder: TranslatorFolder) -> str | None:
    for names in family.tokenisers:
        if all((folder.path / name).is_file() for name in names):
            kind = "hf" if names[0].endswith(".json") else "sentencepiece"
            return f"{kind}:{','.join(str(folder.path / name) for name in names)}"
    return None
