"""Whether a subword model, and plain text, belong to the binary data of a data-bin.

The pieces of a sentence are decoded by the model and encoded again. The model that made them gives the same pieces. A
model may differ in few pieces: subword-nmt and spm_encode can be limited to a vocabulary, which is not in the model.
Plain text is segmented by the model and compared with the pieces of the sentence of the same number.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.data_bin import load_side
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.bpe import JOINT
from fairseq_kd.corpus.sentencepiece_model import SPACE_MARK, UNKNOWN

LARGEST_SHARE = 0.05  # of pieces that the model segments in another way, and of lines that do not match
SENTENCES = 2000  # per side, evenly spaced
LEAST_SHARED = 0.5  # share of the pieces that a line must share with its sentence


@dataclass
class Fit:
    """pieces: number that was compared. otherwise: of these, how many the model segments in another way.

    unknown: number of <unk> in the sentences that were looked at; such sentences are not compared.
    example: (pieces of the data-bin, pieces of the model) of the first sentence that differs, or None.
    """

    pieces: int = 0
    otherwise: int = 0
    unknown: int = 0
    example: tuple[str, str] | None = None

    def __str__(self) -> str:
        found = f"the subword model gives {self.pieces - self.otherwise:,} of {self.pieces:,} pieces of the data-bin"
        return found + (f"; {self.unknown:,} more are {UNKNOWN}" if self.unknown else "")

    def as_dict(self) -> dict:
        """The numbers, for a manifest."""
        return {"pieces": self.pieces, "segmented_otherwise": self.otherwise, "unknown": self.unknown}


def check_model(sides: list[Path], dictionary, model, path, lang: str) -> Fit:
    """How well a subword model fits the sentences of one language.

    sides: paths without file endings. dictionary: of fairseq. model: of `corpus.subword`. path: its file.
    Raises KDError for a model that segments more than LARGEST_SHARE of the pieces in another way.
    """
    fit = Fit()
    for line in _sentences(sides, dictionary):
        _compare(fit, line, model)
    if fit.otherwise > LARGEST_SHARE * fit.pieces:
        before, after = fit.example
        raise KDError(
            f"--subword-model {path} does not fit the text in {lang}: it segments {fit.otherwise:,} of {fit.pieces:,} "
            f"pieces in another way, for example {after!r} instead of {before!r}. So its text would not be the text of "
            "the data-bin: give the model with which the text was segmented"
        )
    if fit.pieces == 0 and fit.unknown:
        raise KDError(
            f"--subword-model {path} cannot be compared with the text in {lang}: each sentence that was looked at "
            f"holds {UNKNOWN}, so the dictionary is not the dictionary of this text: binarise the text again"
        )
    return fit


def _compare(fit: Fit, line: str, model) -> None:
    """Add one sentence to the counts."""
    pieces = line.split(" ")
    if UNKNOWN in pieces:
        fit.unknown += pieces.count(UNKNOWN)
        return
    again = [piece for piece in pieces if not _is_marked(piece)] if model.kind == "none" else _encode(model, line)
    differ = len(pieces) - shared(pieces, again)
    fit.pieces, fit.otherwise = fit.pieces + len(pieces), fit.otherwise + differ
    if differ and fit.example is None:
        fit.example = tuple(" ".join(found[:8]) for found in (pieces, again))


def _is_marked(piece: str) -> bool:
    """Whether a piece has the mark of a subword, which no word has."""
    return piece.endswith(JOINT) or piece.startswith(SPACE_MARK)


def _encode(model, line: str) -> list[str]:
    return model.encode(model.decode(line)).split(" ")


def shared(one: list[str], other: list[str]) -> int:
    """The number of pieces that two lists have in common, in any order."""
    return (Counter(one) & Counter(other)).total()


def _sentences(sides: list[Path], dictionary):
    """The pieces of sentences, evenly spaced over each side. Empty sentences are left out."""
    for side in sides:
        dataset = load_side(side, dictionary)
        for number in np.unique(np.linspace(0, len(dataset) - 1, SENTENCES).astype(int)) if len(dataset) else ():
            if len(ids := dataset[int(number)][:-1]):
                yield _line(ids, dictionary)


def _line(ids, dictionary) -> str:
    """Pieces as they are in the dictionary; `Dictionary.string` would change some."""
    return " ".join([UNKNOWN if i == dictionary.unk() else dictionary.symbols[i] for i in ids.tolist()])


def check_text(path, lines: list[str], side: Path, dictionary, model) -> int:
    """The number of lines whose pieces are the pieces of the sentence of the same number.

    path: the file of the lines. side: path without file ending.
    Raises KDError when the numbers of lines and sentences differ, and when more than LARGEST_SHARE of the lines do not
    match their sentences.
    """
    dataset = load_side(side, dictionary)
    if len(lines) != len(dataset):
        raise KDError(
            f"{path} has {len(lines):,} lines, {side} has {len(dataset):,} sentences, so no line can be "
            "assigned to its sentence: give the text from which the subset was binarised"
        )
    same, others = 0, []
    for number, line in enumerate(lines):
        theirs, ours = _line(dataset[number][:-1], dictionary).split(" "), model.encode(line).split(" ")
        known = [piece for piece in theirs if piece != UNKNOWN]
        same += theirs == ours
        if shared(known, ours) < LEAST_SHARED * max(len(known), len(ours) - (len(theirs) - len(known))):
            others.append(number + 1)
    if len(others) > LARGEST_SHARE * len(lines):
        raise KDError(
            f"{path} is not aligned with {side}: {len(others):,} of {len(lines):,} lines do not match their sentences, "
            f"line {others[0]} is the first. Give the text from which the subset was binarised, in the same form "
            "(tokenised or lower-cased if the data-bin is)"
        )
    return same
