"""Subword models: trained, reused and applied by SentencePiece or subword-nmt.

Both are reversible: `decode(encode(text))` is the text, so hypotheses are detokenised by `decode` alone. But a
SentencePiece model may normalise the text first, which cannot be undone: see NORMALISATIONS.
"""

import codecs
import contextlib
import io
import itertools
import re
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.bpe_codes import read_codes
from fairseq_kd.corpus.special_words import cut_special

NORMALIZER_SPEC, NORMALIZER_NAME = 3, 1  # fields of sentencepiece_model.proto
HEAD_BYTES = 4096  # of a file, to tell what it is
# SentencePiece's rules. By Unicode's NFKC full-width punctuation becomes ASCII: `，` becomes `,`, and a reference that
# holds it cannot be reached. nmt_ treats some spaces and control characters too, _cf folds case.
NORMALISATIONS = ("identity", "nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf")
DEFAULT_NORMALISATION = "identity"
KINDS = ("sentencepiece", "subword-nmt", "none")
SPACE_MARK = "\u2581"  # SentencePiece writes a space so
UNKNOWN = "<unk>"  # fairseq writes an unknown token so
BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")  # of SentencePiece models with byte fallback
REPLACEMENT = "\ufffd"  # stands for a byte that belongs to no character


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
        """The rule that was named when the model was trained, one of NORMALISATIONS as a rule."""
        specification = dict(_submessages(self.processor.serialized_model_proto())).get(NORMALIZER_SPEC, b"")
        return dict(_submessages(specification)).get(NORMALIZER_NAME, b"").decode()

    def normalise(self, line: str) -> str:
        """The text as the model reads it, which is what its pieces spell."""
        return self.processor.normalize(line).replace("\u2581", " ").strip()

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
        """Space-separated pieces to text, by the model. `<unk>` stays."""
        runs = itertools.groupby(filter(None, line.split(" ")), UNKNOWN.__eq__)
        return "".join("".join(run) if unknown else self._decode_run(list(run)) for unknown, run in runs).strip()

    def _decode_run(self, pieces: list[str]) -> str:
        """The model takes the first space away, and leaves the mark in pieces that it does not know."""
        text = self.processor.decode(pieces).replace(SPACE_MARK, " ")
        return f" {text}" if pieces[0].startswith(SPACE_MARK) and not text.startswith(" ") else text


def join_pieces(line: str) -> str:
    """Space-separated SentencePiece pieces to text, where the model is not at hand.

    A run of byte pieces, `<0xC3> <0xB1>`, is read as UTF-8; each byte that belongs to no character becomes U+FFFD, as
    in SentencePiece.
    """
    runs = itertools.groupby(line.split(" "), lambda piece: BYTE_PIECE.fullmatch(piece) is not None)
    join = {True: _join_bytes, False: lambda pieces: "".join(pieces).replace(SPACE_MARK, " ")}
    return "".join(join[are_bytes](pieces) for are_bytes, pieces in runs).strip()


def _join_bytes(pieces: Iterable[str]) -> str:
    data = bytes(int(BYTE_PIECE.fullmatch(piece).group(1), 16) for piece in pieces)
    return data.decode("utf-8", errors="fairseq_kd_each_byte")


# Python's own handler "replace" puts one mark for several bytes
codecs.register_error("fairseq_kd_each_byte", lambda error: (REPLACEMENT * (error.end - error.start), error.end))


class SubwordNMTModel:
    """Byte-pair encoding by subword-nmt, over words between spaces."""

    kind = "subword-nmt"
    suffix = ".codes"

    def __init__(self, path):
        """Load. Raises KDError when `path` holds no BPE codes."""
        from subword_nmt.apply_bpe import BPE

        self.bpe = BPE(io.StringIO(read_codes(path), newline="\n"))

    @staticmethod
    def copy(path, out: Path) -> None:
        """Write the codes in the file `path` to `out`, as subword-nmt itself reads them."""
        out.write_bytes(read_codes(path).encode("utf-8"))

    @staticmethod
    def train(lines: Iterable[str], vocab_size: int, out: Path) -> None:
        """Learn `vocab_size` merges and write the codes to `out`. Deterministic."""
        from subword_nmt.learn_bpe import learn_bpe

        with open(out, "w", encoding="utf-8") as codes, contextlib.redirect_stderr(io.StringIO()):
            learn_bpe((line + "\n" for line in lines), codes, vocab_size)

    def encode(self, line: str) -> str:
        """Text to space-separated subwords; a subword that is continued ends in @@."""
        return cut_special(self.bpe.process_line(line), "@@")

    @staticmethod
    def decode(line: str) -> str:
        """Space-separated subwords to text."""
        return (line + " ").replace("@@ ", "").strip()


class WordModel:
    """No subwords: the text is segmented already, its tokens are what stands between spaces."""

    kind = "none"
    suffix = ""

    @staticmethod
    def encode(line: str) -> str:
        """The line itself."""
        return line

    decode = encode


def _submessages(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(field number, content) of the strings and messages that a protobuf message holds.

    sentencepiece can read a model's fields with the package protobuf alone, which it does not bring.
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


MODELS = {model.kind: model for model in (SentencePieceModel, SubwordNMTModel, WordModel)}


def load_subword_model(kind: str, path=None):
    """The model of `kind` read from `path` (no path for kind "none"). Raises KDError for a kind not known."""
    if kind not in MODELS:
        raise KDError(f"unknown subword model {kind!r}; known: {', '.join(KINDS)}")
    return WordModel() if kind == "none" else MODELS[kind](path)


def load_model_file(path):
    """The model in a file: text is BPE codes (see `read_codes`), anything else a SentencePiece model.

    Raises KDError when it is neither.
    """
    if not Path(path).is_file():
        raise KDError(f"--subword-model: {path} is not there")
    with open(path, "rb") as file:
        is_text = b"\0" not in file.read(HEAD_BYTES)  # a SentencePiece model holds numbers of four bytes
    return load_subword_model("subword-nmt" if is_text else "sentencepiece", path)


def obtain_subword_models(kind, train_text: dict, vocab_size, joint: bool, reuse, folder: Path, normalisation=None):
    """Train or copy the subword models of a language pair into `folder`.

    train_text: language -> iterable of lines, read once. joint: one model for both languages.
    reuse: None, or the path of a model to copy instead of training (joint only).
    normalisation: of NORMALISATIONS, where a SentencePiece model is trained.
    Returns (language -> model, language -> file name in `folder` or None).
    """
    languages = list(train_text)
    if kind == "none":
        return {lang: WordModel() for lang in languages}, dict.fromkeys(languages)
    folder.mkdir(parents=True, exist_ok=True)
    suffix, train = MODELS[kind].suffix, MODELS[kind].train
    if normalisation is not None:
        train = partial(train, normalisation=normalisation)
    if reuse is not None:
        load_subword_model(kind, reuse)  # refuse before copying
        MODELS[kind].copy(reuse, folder / f"joint{suffix}")
        names = dict.fromkeys(languages, f"joint{suffix}")
    elif joint:
        both = (line for lang in languages for line in train_text[lang])
        train(both, vocab_size, folder / f"joint{suffix}")
        names = dict.fromkeys(languages, f"joint{suffix}")
    else:
        names = {lang: f"{lang}{suffix}" for lang in languages}
        for lang in languages:
            train(train_text[lang], vocab_size, folder / names[lang])
    return {lang: load_subword_model(kind, folder / names[lang]) for lang in languages}, names


def load_decoder(post_process: str):
    """The function that joins the subwords of one line without a model: both kinds mark their joints in the text.

    Raises KDError for an unknown kind. Where a data-bin brings its model, `prepare.subword_decoder` takes that.
    """
    decoders = {"sentencepiece": join_pieces, "subword-nmt": SubwordNMTModel.decode, "none": WordModel.decode}
    if post_process not in decoders:
        raise KDError(f"--post-process {post_process}: must be one of {', '.join(KINDS)}")
    return decoders[post_process]
