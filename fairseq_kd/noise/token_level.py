"""Blocks of token ids of a data-bin: cut into words (groups of subwords), subwords or characters.

Words and subwords are moved as the ids they are, so nothing is segmented anew and nothing can be lost: the subword
models segment each word by itself. Characters need text: sentences that changed are decoded and encoded again.
"""

import numpy as np
import pyarrow as pa

from fairseq_kd.corpus.subword import load_decoder
from fairseq_kd.errors import KDError
from fairseq_kd.noise.block import Noised, add_noise
from fairseq_kd.noise.options import NoiseOptions
from fairseq_kd.noise.units import Units, find_characters, find_tokens
from fairseq_kd.noise.vocabulary import count_units

WORD_MARK = "\u2581"  # SentencePiece: begins a word
JOINT = "@@"  # subword-nmt: the word goes on
UNKNOWN = "\ue000"  # stands for <unk> in text: a character for private use


class TokenLevel:
    """A block is the bytes of ids, each sentence ended by EOS."""

    def __init__(self, options: NoiseOptions, dictionary, dtype, kind: str | None, model=None):
        """kind: of the subword model, or None (level subword). model: of `corpus.subword` (level char).

        Raises KDError when the level needs what is not given.
        """
        if options.level != "subword" and kind is None:
            raise KDError(f"--level {options.level} must know how subwords make words: give --post-process")
        if options.level == "char" and model is None:
            raise KDError("--level char needs the subword model, which only data-bins of `fairseq-kd prepare` bring")
        self.options, self.dictionary, self.dtype = options, dictionary, np.dtype(dtype)
        self.kind, self.model = kind, model
        self._join = None if kind is None else load_decoder(kind)
        self._marked = np.array([_is_marked(symbol, kind) for symbol in dictionary.symbols])

    def count(self, block: bytes) -> pa.Table:
        """How often each unit of a block occurs, see `count_units`."""
        return count_units(self._units(block))

    def noise(self, block: bytes, **where) -> Noised:
        """The block with noise; where: see `add_noise`."""
        noised = add_noise(self._units(block), self.options, **where)
        return self._encoded(block, noised) if self.options.level == "char" else noised

    def lines(self, block: bytes) -> list[str]:
        """The sentences of a block: its symbols, or text where the way of joining them is known."""
        symbols = self.dictionary.symbols
        lines = [" ".join([symbols[i] for i in ids[:-1]]) for ids in self.sentences(block)]
        return lines if self._join is None else [self._join(line) for line in lines]

    def sentences(self, block: bytes) -> list[np.ndarray]:
        """The ids of each sentence, EOS at the end."""
        ids = np.frombuffer(block, self.dtype)
        return np.split(ids, np.flatnonzero(ids == self.dictionary.eos())[:-1] + 1)

    def _units(self, block: bytes) -> Units:
        if self.options.level == "char":
            return find_characters(self._text(block))
        ids = np.frombuffer(block, self.dtype)
        if self.options.level == "subword" or self.kind == "none":
            begins = np.ones(len(ids), dtype=bool)
        elif self.kind == "sentencepiece":
            begins = self._marked[ids]
        else:
            begins = np.append(True, ~self._marked[ids[:-1]])
        return find_tokens(ids, begins, self.dictionary.eos())

    def _text(self, block: bytes) -> bytes:
        symbols = list(self.dictionary.symbols)
        symbols[self.dictionary.unk()] = UNKNOWN
        lines = [self.model.decode(" ".join([symbols[i] for i in ids[:-1]])) for ids in self.sentences(block)]
        return "".join([line + "\n" for line in lines]).encode()

    def _encoded(self, block: bytes, noised: Noised) -> Noised:
        """The sentences that changed as ids again, the others as they were."""
        sentences, lines = self.sentences(block), noised.data.tobytes().decode().split("\n")
        for number in np.flatnonzero(noised.changed).tolist():
            symbols = self.model.encode(lines[number]).split()
            sentences[number] = np.array([*map(self.dictionary.index, symbols), self.dictionary.eos()], self.dtype)
        return Noised(np.concatenate(sentences).view(np.uint8), noised.changed, noised.counts)


def _is_marked(symbol: str, kind: str | None) -> bool:
    return symbol.startswith(WORD_MARK) if kind == "sentencepiece" else symbol.endswith(JOINT)
