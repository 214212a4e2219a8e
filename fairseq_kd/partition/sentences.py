"""What a rule sees of a subset: the lengths of its sentences, and their words; read from a data-bin or from text."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fairseq_kd.core.progress import Progress
from fairseq_kd.partition.words import Vocabulary, Words, split_words

SIDES = ("source", "target")


@dataclass(frozen=True)
class Sentences:
    """The sentences of a subset.

    lengths: side -> int64 (sentences,), tokens without the end of sentence; of text, words. words: side -> Words.
    unit: "words", or "subwords" where the data-bin does not say how subwords make words. The target may be missing.
    """

    lengths: dict[str, np.ndarray]
    words: dict[str, Words]
    unit: str

    def __len__(self) -> int:
        return len(self.lengths["source"])


class DataBinReader:
    """Reads subsets of a data-bin, the training set first.

    decoders: side -> function from a line of subwords to text; None where nobody knows how subwords make words: then
    the symbols of the dictionaries are the words.
    """

    def __init__(self, dictionaries: dict, decoders: dict[str, Callable[[str], str]] | None):
        self.dictionaries, self.decoders = dictionaries, decoders
        self._vocabularies = {
            side: Vocabulary(() if decoders else dictionary.symbols) for side, dictionary in dictionaries.items()
        }

    def read(self, name: str, dataset, training: bool) -> Sentences:
        """The sentences of a dataset of fairseq. name: of the subset, for the progress."""
        sides = {"source": (dataset.src, dataset.src_sizes), "target": (dataset.tgt, dataset.tgt_sizes)}
        sides = {side: found for side, found in sides.items() if found[0] is not None}
        lengths = {side: np.asarray(sizes, dtype=np.int64) - 1 for side, (_, sizes) in sides.items()}
        words = {}
        for side, (sentences, _) in sides.items():
            progress = Progress(f"reading {name}, {side}", len(sentences), "sentences")
            lines = progress.over(self._words_of(side, sentences))
            words[side] = self._vocabularies[side].number(lines, training)
            progress.finish()
        return Sentences(lengths, words, "words" if self.decoders else "subwords")

    def _words_of(self, side: str, sentences) -> Iterator[list[str]]:
        symbols = self.dictionaries[side].symbols
        for number in range(len(sentences)):
            line = [symbols[token] for token in sentences[number].tolist()[:-1]]
            yield split_words(self.decoders[side](" ".join(line))) if self.decoders else line


def read_text(lines_of_sides: dict[str, Iterator[str]], total: int) -> Sentences:
    """The sentences of aligned text. lines_of_sides: side -> its lines. total: of lines, for the progress."""
    lengths, words = {}, {}
    for side, lines in lines_of_sides.items():
        progress = Progress(f"reading {side}", total, "sentences")
        words[side] = Vocabulary().number((split_words(line) for line in progress.over(lines)), training=True)
        lengths[side] = np.diff(words[side].offsets)
        progress.finish()
    return Sentences(lengths, words, "words")
