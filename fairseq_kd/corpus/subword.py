"""Subword models: trained, reused and applied by SentencePiece or subword-nmt.

Both are reversible: `decode(encode(text))` is the text (SentencePiece first applies its NFKC normalisation), so
hypotheses are detokenised by `decode` alone.
"""

import codecs
import contextlib
import io
import itertools
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from fairseq_kd.errors import KDError

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
            raise KDError(f"{path} is not a SentencePiece model ({error})") from error

    @staticmethod
    def train(lines: Iterable[str], vocab_size: int, out: Path) -> None:
        """Train a BPE model of `vocab_size` pieces and write it to `out`. Deterministic."""
        import sentencepiece

        writer = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=writer,
                model_type="bpe",
                vocab_size=vocab_size,
                character_coverage=1.0,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise KDError(f"SentencePiece cannot train {vocab_size} pieces: {reason} (--vocab-size)") from error
        out.write_bytes(writer.getvalue())

    def encode(self, line: str) -> str:
        """Text to space-separated pieces."""
        return " ".join(self.processor.encode(line, out_type=str))

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

        try:
            # the reader of subword-nmt ends the process at a bad line, hence SystemExit
            with open(path, encoding="utf-8") as codes, contextlib.redirect_stderr(io.StringIO()):
                self.bpe = BPE(codes)
        except (OSError, UnicodeDecodeError, SystemExit, ValueError) as error:
            raise KDError(f"{path} holds no subword-nmt codes ({error})") from error

    @staticmethod
    def train(lines: Iterable[str], vocab_size: int, out: Path) -> None:
        """Learn `vocab_size` merges and write the codes to `out`. Deterministic."""
        from subword_nmt.learn_bpe import learn_bpe

        with open(out, "w", encoding="utf-8") as codes, contextlib.redirect_stderr(io.StringIO()):
            learn_bpe((line + "\n" for line in lines), codes, vocab_size)

    def encode(self, line: str) -> str:
        """Text to space-separated subwords; a subword that is continued ends in @@."""
        return self.bpe.process_line(line)

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


MODELS = {model.kind: model for model in (SentencePieceModel, SubwordNMTModel, WordModel)}


def load_subword_model(kind: str, path=None):
    """The model of `kind` read from `path` (no path for kind "none"). Raises KDError for a kind not known."""
    if kind not in MODELS:
        raise KDError(f"unknown subword model {kind!r}; known: {', '.join(KINDS)}")
    return WordModel() if kind == "none" else MODELS[kind](path)


def load_model_file(path):
    """The model in a file: subword-nmt codes, which begin with their version, or else SentencePiece.

    Raises KDError when it is neither.
    """
    if not Path(path).is_file():
        raise KDError(f"--subword-model: {path} is not there")
    with open(path, "rb") as file:
        kind = "subword-nmt" if file.read(8) == b"#version" else "sentencepiece"
    return load_subword_model(kind, path)


def obtain_subword_models(kind, train_text: dict, vocab_size, joint: bool, reuse, folder: Path):
    """Train or copy the subword models of a language pair into `folder`.

    train_text: language -> iterable of lines, read once. joint: one model for both languages.
    reuse: None, or the path of a model to copy instead of training (joint only).
    Returns (language -> model, language -> file name in `folder` or None).
    """
    languages = list(train_text)
    if kind == "none":
        return {lang: WordModel() for lang in languages}, dict.fromkeys(languages)
    folder.mkdir(parents=True, exist_ok=True)
    suffix = MODELS[kind].suffix
    if reuse is not None:
        load_subword_model(kind, reuse)  # refuse before copying
        shutil.copyfile(reuse, folder / f"joint{suffix}")
        names = dict.fromkeys(languages, f"joint{suffix}")
    elif joint:
        both = (line for lang in languages for line in train_text[lang])
        MODELS[kind].train(both, vocab_size, folder / f"joint{suffix}")
        names = dict.fromkeys(languages, f"joint{suffix}")
    else:
        names = {lang: f"{lang}{suffix}" for lang in languages}
        for lang in languages:
            MODELS[kind].train(train_text[lang], vocab_size, folder / names[lang])
    return {lang: load_subword_model(kind, folder / names[lang]) for lang in languages}, names


def load_decoder(post_process: str):
    """The function that joins the subwords of one line without a model: both kinds mark their joints in the text.

    Raises KDError for an unknown kind. Where a data-bin brings its model, `prepare.subword_decoder` takes that.
    """
    decoders = {"sentencepiece": join_pieces, "subword-nmt": SubwordNMTModel.decode, "none": WordModel.decode}
    if post_process not in decoders:
        raise KDError(f"--post-process {post_process}: must be one of {', '.join(KINDS)}")
    return decoders[post_process]
