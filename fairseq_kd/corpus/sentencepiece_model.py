"""Subwords by SentencePiece.

`decode(encode(text))` is the text. But a model may normalise the text first, which cannot be undone: see
NORMALISATIONS.
"""

import codecs
import io
import itertools
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.binarise import cut_special

NORMALIZER_SPEC, NORMALIZER_NAME = 3, 1  # fields of sentencepiece_model.proto
# SentencePiece's rules. By Unicode's NFKC full-width punctuation becomes ASCII: `，` becomes `,`, so that no output
# equals a reference that holds it. nmt_ also treats some spaces and control characters, _cf folds case.
NORMALISATIONS = ("identity", "nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf")
DEFAULT_NORMALISATION = "identity"
SPACE_MARK = "\u2581"  # SentencePiece writes it for a space
UNKNOWN = "<unk>"  # fairseq writes it for an unknown token
BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")  # a piece of models with byte fallback
REPLACEMENT = "\ufffd"  # written for a byte that belongs to no character


class SentencePieceModel:
    """A SentencePiece model file."""

    kind = "sentencepiece"
    suffix = ".spm"

    def __init__(self, path):
        """Load. Raises KDError when `path` holds no SentencePiece model."""
        import sentencepiece

        try:
            self.processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise KDError(
                f"{path} is not a SentencePiece model ({error}); codes of subword-nmt or fastBPE are for --subword "
                "subword-nmt"
            ) from error

    @staticmethod
    def copy(path, out: Path) -> None:
        """Write the model in the file `path` to `out`."""
        shutil.copyfile(path, out)

    @property
    def normalisation(self) -> str:
        """The name of the rule with which the model was trained, usually one of NORMALISATIONS."""
        specification = dict(_submessages(self.processor.serialized_model_proto())).get(NORMALIZER_SPEC, b"")
        return dict(_submessages(specification)).get(NORMALIZER_NAME, b"").decode()

    def normalise(self, line: str) -> str:
        """The text as the model reads it, which is the text that its pieces spell."""
        return self.processor.normalize(line).replace(SPACE_MARK, " ").strip()

    @staticmethod
    def train(lines: Iterable[str], vocab_size: int, out: Path, normalisation: str = DEFAULT_NORMALISATION) -> None:
        """Train a BPE model of `vocab_size` pieces and write it to `out`. Deterministic.

        normalisation: one of NORMALISATIONS.
        """
        import sentencepiece

        writer = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=writer,
                model_type="bpe",
                vocab_size=vocab_size,
                character_coverage=1.0,
                normalization_rule_name=normalisation,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise KDError(f"SentencePiece cannot train {vocab_size} pieces: {reason} (--vocab-size)") from error
        out.write_bytes(writer.getvalue())

    def encode(self, line: str) -> str:
        """Text to space-separated pieces."""
        return cut_special(" ".join(self.processor.encode(line, out_type=str)))

    def decode(self, line: str) -> str:
        """Space-separated pieces to text, by the model. `<unk>` is kept."""
        runs = itertools.groupby(filter(None, line.split(" ")), UNKNOWN.__eq__)
        return "".join("".join(run) if unknown else self._decode_run(list(run)) for unknown, run in runs).strip()

    def _decode_run(self, pieces: list[str]) -> str:
        """The model removes the first space, and keeps the space mark in pieces that it does not know."""
        text = self.processor.decode(pieces).replace(SPACE_MARK, " ")
        return f" {text}" if pieces[0].startswith(SPACE_MARK) and not text.startswith(" ") else text


def join_pieces(line: str) -> str:
    """Space-separated SentencePiece pieces to text, without the model.

    A run of byte pieces, `<0xC3> <0xB1>`, is read as UTF-8; each byte that belongs to no character becomes U+FFFD, as
    in SentencePiece.
    """
    runs = itertools.groupby(line.split(" "), lambda piece: BYTE_PIECE.fullmatch(piece) is not None)
    join = {True: _join_bytes, False: lambda pieces: "".join(pieces).replace(SPACE_MARK, " ")}
    return "".join(join[are_bytes](pieces) for are_bytes, pieces in runs).strip()


def _join_bytes(pieces: Iterable[str]) -> str:
    data = bytes(int(BYTE_PIECE.fullmatch(piece).group(1), 16) for piece in pieces)
    return data.decode("utf-8", errors="fairseq_kd_each_byte")


# Python's own handler "replace" writes one mark for several bytes
codecs.register_error("fairseq_kd_each_byte", lambda error: (REPLACEMENT * (error.end - error.start), error.end))


def _submessages(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(field number, content) of the strings and messages that a protobuf message holds.

    sentencepiece can read a model's fields only with the package protobuf, which it does not install.
    """
    at = 0

    def varint() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while at < len(message):
        field, wire = divmod(varint(), 8)
        if wire == 0:
            varint()
        elif wire == 2:
            size = varint()
            yield field, message[at : at + size]
            at += size
        else:
            at += {1: 8, 5: 4}[wire]
