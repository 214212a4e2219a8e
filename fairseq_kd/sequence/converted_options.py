"""The options of a converted teacher, `fairseq-kd decode --teacher-folder`, checked and filled in by its family."""

import os
from dataclasses import asdict, dataclass

from fairseq_kd.core.errors import KDError
from fairseq_kd.export.translator_folder import TranslatorFolder
from fairseq_kd.sequence.converted_families import FAMILIES, TOKENS, fill_in, language_tokens
from fairseq_kd.sequence.converted_tokeniser import Tokeniser
from fairseq_kd.sequence.decode_options import DecodeOptions

MAX_UNKNOWN_SHARE = 0.05
SAMPLED = "sample"  # the strategy that CTranslate2 runs in one thread per block, see `converted_backend`


@dataclass(frozen=True)
class ConvertedOptions:
    """A model of CTranslate2 with its own tokeniser. Raises KDError for a value out of range.

    folder: of the model. tokeniser: see `converted_tokeniser`. family: one of FAMILIES. source_lang, target_lang: in
    the codes of the family. source_prefix, source_suffix, target_prefix: tokens between spaces, "" for none. None: as
    the family says.
    """

    folder: str
    tokeniser: str | None = None
    family: str = "plain"
    source_lang: str | None = None
    target_lang: str | None = None
    source_prefix: str | None = None
    source_suffix: str | None = None
    target_prefix: str | None = None
    max_source_tokens: int | None = None
    max_unknown_share: float = MAX_UNKNOWN_SHARE

    def __post_init__(self):
        if self.family not in FAMILIES:
            raise KDError(f"--family {self.family}: must be one of {', '.join(FAMILIES)}")
        if not 0 <= self.max_unknown_share <= 1:
            raise KDError(f"--max-unknown-share {self.max_unknown_share}: must be between 0 and 1")
        if self.max_source_tokens is not None and self.max_source_tokens < 1:
            raise KDError(f"--max-source-tokens {self.max_source_tokens}: must be at least 1")

    def filled(self, folder: TranslatorFolder) -> "FilledOptions":
        """The options with what the family gives. Raises KDError for what the model cannot use."""
        languages = {"source": self.source_lang, "target": self.target_lang}
        given = {name: getattr(self, name) for name in (*TOKENS, "tokeniser")}
        by_family = fill_in(self.family, folder, languages, {name for name in TOKENS if given[name] is not None})
        chosen = {name: by_family[name] if value is None else value for name, value in given.items()}
        tokeniser = chosen.pop("tokeniser")
        if not tokeniser:
            raise KDError(
                f"--teacher-folder {folder.path} needs --teacher-tokeniser: give sentencepiece:FILE, "
                "sentencepiece:SOURCE,TARGET, hf:tokenizer.json, or words"
            )
        filled = FilledOptions(tokeniser=tokeniser, **{name: tuple(text.split()) for name, text in chosen.items()})
        filled.check(folder)
        if (limit := folder.positions[0]) and self.max_source_tokens and self.max_source_tokens > limit:
            raise KDError(
                f"--max-source-tokens {self.max_source_tokens}: the model has positions for {limit} source tokens; "
                "give at most this number"
            )
        return filled


@dataclass(frozen=True)
class FilledOptions:
    """The tokeniser, and the tokens around a source and before a target."""

    tokeniser: str
    source_prefix: tuple[str, ...]
    source_suffix: tuple[str, ...]
    target_prefix: tuple[str, ...]

    def check(self, folder: TranslatorFolder) -> None:
        """Raises KDError for a token that the model does not know, and for an end that would be written twice."""
        for name, vocabulary in (("source_prefix", folder.source), ("source_suffix", folder.source),
                                 ("target_prefix", folder.target)):  # fmt: skip
            known = set(vocabulary)
            if unknown := [token for token in getattr(self, name) if token not in known]:
                raise KDError(
                    f"--{name.replace('_', '-')} {unknown[0]}: the vocabulary of {folder.path} has no such token, so "
                    "the model would read an unknown token; check the language code and --family"
                )
        if folder.config.get("add_source_eos") and self.source_suffix[-1:] == (folder.eos,):
            raise KDError(
                f"--source-suffix {folder.eos}: the model adds this token to every source by itself (add_source_eos in "
                "its config.json); leave the token out"
            )

    def describe(self, family: str) -> str:
        """One line for the user."""
        tokens = {name: " ".join(value) for name, value in asdict(self).items() if name != "tokeniser"}
        listed = [f"--{name.replace('_', '-')} {value!r}" for name, value in tokens.items()]
        return f"--family {family}: --teacher-tokeniser {self.tokeniser} {' '.join(listed)}"


def control_tokens(options: ConvertedOptions, folder: TranslatorFolder, vocabulary: list[str]) -> frozenset[str]:
    """The tokens of one side's vocabulary that are no text: special symbols, and the language tokens of the family."""
    return frozenset(folder.special | language_tokens(options.family, vocabulary))


def check_target_pieces(tokeniser: Tokeniser, folder: TranslatorFolder, options: ConvertedOptions) -> None:
    """Raises KDError when the vocabulary of the model and the pieces of target text have too little in common.

    One may have pieces that the other lacks: a dictionary of fairseq has only those that its training set has.
    """
    if (pieces := tokeniser.target_pieces()) is None:
        return
    known = set(folder.target) - control_tokens(options, folder, folder.target)
    unknown = [piece for piece in pieces if piece not in known]
    fewer = min(len(pieces), len(known))
    missing = fewer - (len(pieces) - len(unknown))
    if missing > options.max_unknown_share * fewer:
        raise not_fitting(tokeniser, folder, options, unknown, f"{fewer:,} pieces of its target side", missing)


def not_fitting(tokeniser, folder: TranslatorFolder, options, examples: list[str], of: str, count: int) -> KDError:
    """The error for a tokeniser of another model. of: the pieces that were looked at. count: of unknown ones."""
    names = ", ".join(map(str, tokeniser.files)) or tokeniser.kind
    return KDError(
        f"the tokeniser {names} does not fit the model: {count:,} of {of} are not in the vocabulary of "
        f"{folder.path} ({' '.join(examples[:3])} ...), which is more than --max-unknown-share "
        f"{options.max_unknown_share:g}: give the tokeniser of this model, or a greater share"
    )


def second_models(options: DecodeOptions) -> list[str]:
    """The checkpoints of --select-model and --round-trip."""
    return [path for text in (options.select_model, options.round_trip) if text for path in text.split(os.pathsep)]


def check_for_converted(options: DecodeOptions, *, teacher_data=None, trust=None, workers=None, lang_pair=None) -> None:
    """Raises KDError for options of `decode` that a converted teacher cannot have."""
    how = options.how
    if how.reads_gold:
        raise KDError(
            f"--strategy {options.strategy} needs the gold targets in the teacher's own tokens, and a model of "
            "--teacher-folder has another vocabulary: give --strategy beam, greedy or sample"
        )
    if how.not_by_ctranslate2 and options.strategy != SAMPLED:
        raise KDError(f"--strategy {options.strategy} does not run with --teacher-folder: {how.not_by_ctranslate2}")
    if options.backend == "fairseq":
        raise KDError("--backend fairseq cannot run --teacher-folder, which is a model of CTranslate2: leave it out")
    if workers is not None and workers < 1:
        raise KDError(f"--workers {workers}: must be at least 1")
    if workers is not None and options.strategy == SAMPLED:
        raise KDError(
            f"--workers {workers} has no effect with --strategy sample and --teacher-folder: samples are drawn by one "
            "thread, so that they can be drawn again; share the work by --shard I/N"
        )
    second = second_models(options)  # checkpoints of fairseq
    given = {
        "--teacher-data": None if second else teacher_data,
        "--trust-checkpoint": None if trust in second else trust,
    }
    for option, value in (given | {"--lang-pair": lang_pair}).items():
        if value is not None:
            raise KDError(f"{option} {value} has no effect with --teacher-folder: it is for checkpoints of fairseq")
