"""Tokenisers of converted models: text -> pieces for the source, pieces -> text for the target.

--teacher-tokeniser is `sentencepiece:FILE` for both languages, `sentencepiece:SOURCE,TARGET`, `hf:tokenizer.json`, or
`words` for models whose tokens are the words between spaces. No tokeniser adds special tokens.
"""

from abc import ABC, abstractmethod
from itertools import groupby
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.sentencepiece_model import SentencePieceModel

KINDS = ("sentencepiece", "hf", "words")
UNKNOWN = "\ue000"  # of private use: no vocabulary has it, and no normalisation makes other characters of it


class Tokeniser(ABC):
    """files: what it was read from."""

    kind: str
    files: tuple[Path, ...] = ()

    @abstractmethod
    def encode(self, lines: list[str]) -> list[list[str]]:
        """The pieces of each line of source text."""

    @abstractmethod
    def decode(self, pieces: list[str]) -> str:
        """The text of the pieces of one target. Pieces that the tokeniser does not know are UNKNOWN, or their text."""

    @abstractmethod
    def target_pieces(self) -> list[str] | None:
        """Every piece that a target can have, without special tokens; None where nobody knows."""


class Words(Tokeniser):
    """The tokens are words."""

    kind = "words"

    def encode(self, lines: list[str]) -> list[list[str]]:
        """See `Tokeniser`."""
        return [line.split() for line in lines]

    def decode(self, pieces: list[str]) -> str:
        """See `Tokeniser`."""
        return " ".join(pieces)

    def target_pieces(self) -> None:
        """See `Tokeniser`."""
        return


class Pieces(Tokeniser):
    """SentencePiece, with one model per language or one for both."""

    kind = "sentencepiece"

    def __init__(self, files: tuple[Path, ...]):
        self.files = files
        self.source, self.target = SentencePieceModel(files[0]), SentencePieceModel(files[-1])

    def encode(self, lines: list[str]) -> list[list[str]]:
        """See `Tokeniser`."""
        return self.source.processor.encode(lines, out_type=str)

    def decode(self, pieces: list[str]) -> str:
        """See `Tokeniser`."""
        return self.target.decode(" ".join(pieces))

    def target_pieces(self) -> list[str]:
        """See `Tokeniser`."""
        found = self.target.processor
        numbers = range(found.get_piece_size())
        return [found.id_to_piece(n) for n in numbers if not (found.is_control(n) or found.is_unknown(n))]


class HuggingFace(Tokeniser):
    """A tokenizer.json, by the package tokenizers."""

    kind = "hf"

    def __init__(self, files: tuple[Path, ...]):
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise KDError(
                "tokenizers is not installed (pip install 'fairseq_kd[pretrained]'): hf:FILE needs it"
            ) from error
        self.files = files
        try:
            self.model = Tokenizer.from_file(str(files[0]))
        except Exception as error:  # the package raises Exception itself
            raise KDError(f"{files[0]} is no tokenizer.json of the package tokenizers ({error})") from error
        self.model.no_truncation()
        self.model.no_padding()
        self.model.encode_special_tokens = True  # text that spells a special token stays text

    def encode(self, lines: list[str]) -> list[list[str]]:
        """See `Tokeniser`."""
        return [found.tokens for found in self.model.encode_batch(lines, add_special_tokens=False)]

    def decode(self, pieces: list[str]) -> str:
        """See `Tokeniser`."""
        found = groupby(map(self.model.token_to_id, pieces), lambda number: number is None)
        parts = [UNKNOWN if unknown else self._text(numbers) for unknown, numbers in found]
        return " ".join(parts)

    def _text(self, numbers) -> str:
        return self.model.decode([*numbers], skip_special_tokens=True)

    def target_pieces(self) -> list[str]:
        """See `Tokeniser`."""
        added = {token.content for token in self.model.get_added_tokens_decoder().values()}
        return sorted(set(self.model.get_vocab()) - added)


def open_tokeniser(text: str) -> Tokeniser:
    """The tokeniser of --teacher-tokeniser. Raises KDError for what it cannot be."""
    kind, _, names = text.partition(":")
    files = tuple(Path(name) for name in names.split(",") if name)
    if kind not in KINDS or bool(files) == (kind == "words") or len(files) > (2 if kind == "sentencepiece" else 1):
        raise KDError(
            f"--teacher-tokeniser {text}: must be sentencepiece:FILE, sentencepiece:SOURCE,TARGET, hf:tokenizer.json, "
            "or words"
        )
    for file in files:
        if not file.is_file():
            raise KDError(f"--teacher-tokeniser: {file} is not there")
    return {"words": lambda files: Words(), "sentencepiece": Pieces, "hf": HuggingFace}[kind](files)
