"""Noise in blocks of token ids of a data-bin, which are cut into words (groups of subwords), subwords or characters.

Words and subwords are moved as ids. No text is segmented again and no information is lost, because the subword models
segment each word independently. Characters, as units or as words of a script without spaces, need text: the sentences
that change are decoded and encoded again.
"""

from functools import cached_property

import numpy as np
import pyarrow as pa

from fairseq_kd.corpus.bpe import JOINT
from fairseq_kd.corpus.scripts import letter_weights
from fairseq_kd.corpus.sentencepiece_model import SPACE_MARK
from fairseq_kd.corpus.subword import load_decoder
from fairseq_kd.noise.operations import Noised, NoiseOptions, add_noise
from fairseq_kd.noise.text_level import cut_out, find_units, marked, protect, unsegmented_lines
from fairseq_kd.noise.units import Units, count_units, find_tokens

UNKNOWN = "\ue000"  # represents <unk> in text: a character for private use


class TokenLevel:
    """A block is the bytes of token ids, and every sentence ends with EOS."""

    def __init__(self, options: NoiseOptions, dictionary, dtype, kind: str | None, model=None):
        """kind: of the subword model; level subword needs none. model: of `corpus.subword`, for `needs_model`."""
        assert options.level == "subword" or kind is not None, "the caller refuses a data-bin without a subword model"
        self._by_text = needs_model(options)
        assert not self._by_text or model is not None, "the caller refuses a data-bin without a subword model"
        self.options, self.dictionary, self.dtype = options, dictionary, np.dtype(dtype)
        self.kind, self.model = kind, model
        self._join = None if kind is None else load_decoder(kind)
        symbols, words = dictionary.symbols, options.protect
        self._marked = np.array([_is_marked(symbol, kind) for symbol in symbols])
        self._is_protected = np.array([symbol in words for symbol in symbols])
        plain = [symbol.removeprefix(SPACE_MARK) if kind == "sentencepiece" else symbol for symbol in symbols]
        plain = [symbol.removesuffix(JOINT) if kind == "subword-nmt" else symbol for symbol in plain]
        self._may_begin_protected = np.array([any(word.startswith(symbol) for word in words) for symbol in plain])

    def count(self, block: bytes) -> pa.Table:
        """How often each unit of a block occurs; see `units.count_units`."""
        return count_units(self._units(block))

    def noise(self, block: bytes, **where) -> Noised:
        """The block with noise. where: the keyword arguments of `add_noise`."""
        units = self._units(block)
        noised = add_noise(units, self.options, **where)
        if self.options.level == "word" and not self._by_text:
            noised.counts.lines_unsegmented = self._unsegmented(units)
        return self._encoded(block, noised) if self._by_text else noised

    def lines(self, block: bytes) -> list[str]:
        """The sentences of a block, as text if the kind of the subword model is known, else as symbols."""
        symbols = self.dictionary.symbols
        lines = [" ".join([symbols[i] for i in ids[:-1]]) for ids in self.sentences(block)]
        return lines if self._join is None else [self._join(line) for line in lines]

    def sentences(self, block: bytes) -> list[np.ndarray]:
        """The ids of each sentence, with EOS at the end."""
        ids = np.frombuffer(block, self.dtype)
        return np.split(ids, np.flatnonzero(ids == self.dictionary.eos())[:-1] + 1)

    @cached_property
    def _letters(self) -> np.ndarray:
        """The weight of the letters of scripts without spaces in each symbol; see `letter_weights`."""
        weights = letter_weights()
        return np.array([sum(int(weights[ord(char)]) for char in symbol) for symbol in self.dictionary.symbols])

    def _unsegmented(self, units: Units) -> int:
        ids = units.data.view(self.dtype)
        places = np.flatnonzero(self._letters[ids])
        return unsegmented_lines(units, places * self.dtype.itemsize, self._letters[ids[places]])

    def _units(self, block: bytes) -> Units:
        words = self.options.protect
        if self._by_text:
            text = self._text(block)
            return protect(find_units(text, self.options), text, words)
        ids = np.frombuffer(block, self.dtype)
        begins = np.ones(len(ids), dtype=bool) if self.options.level == "subword" else self._word_begins(ids)
        units = find_tokens(ids, begins, self.dictionary.eos())
        if not words:
            return units
        starts, ends, texts = self._protected(ids)
        size = self.dtype.itemsize
        return marked(units, starts * size, ends * size, texts, words)

    def _word_begins(self, ids: np.ndarray) -> np.ndarray:
        """bool (tokens,): the tokens that begin a word. A protected symbol is always a word of its own."""
        if self.kind in (None, "none"):
            return np.ones(len(ids), dtype=bool)
        if self.kind == "sentencepiece":
            begins = self._marked[ids]
        else:
            begins = np.append(True, ~self._marked[ids[:-1]])
        alone = self._is_protected[ids]
        return begins | alone | np.append(False, alone[:-1])

    def _protected(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """(first tokens, ends, texts) of the protected words, in order. A word may consist of several subwords."""
        words = find_tokens(ids, self._word_begins(ids), self.dictionary.eos())
        starts, ends = words.starts() // self.dtype.itemsize, words.edges[2:-1:2] // self.dtype.itemsize
        numbers = np.flatnonzero(self._may_begin_protected[ids[starts]])
        texts = [self._spelt(ids[starts[number] : ends[number]]) for number in numbers.tolist()]
        found = np.array([text in self.options.protect for text in texts], dtype=bool)
        return starts[numbers[found]], ends[numbers[found]], [text for text in texts if text in self.options.protect]

    def _spelt(self, ids: np.ndarray) -> str:
        line = " ".join([self.dictionary.symbols[i] for i in ids])
        return line if self._join is None else self._join(line)

    def _text(self, block: bytes) -> bytes:
        lines = [" ".join([text for _, text in self._pieces(ids)]) for ids in self.sentences(block)]
        return "".join([line + "\n" for line in lines]).encode()

    def _pieces(self, ids: np.ndarray) -> list[tuple[np.ndarray, str]]:
        """(ids without EOS, text) of each protected word of a sentence and of each part between them, in order."""
        spans, at = [], 0
        for start, end, text in zip(*self._protected(ids), strict=True) if self.options.protect else ():
            spans += [(ids[at:start], None), (ids[start:end], text)]
            at = end
        spans.append((ids[at:-1], None))
        pieces = [(part, self._decoded(part) if text is None else text) for part, text in spans]
        return [piece for piece in pieces if piece[1]]

    def _decoded(self, ids: np.ndarray) -> str:
        symbols, unknown = self.dictionary.symbols, self.dictionary.unk()
        return self.model.decode(" ".join([UNKNOWN if i == unknown else symbols[i] for i in ids]))

    def _encoded(self, block: bytes, noised: Noised) -> Noised:
        """The changed sentences encoded again; the other sentences and the protected words keep their ids."""
        sentences, lines = self.sentences(block), noised.data.tobytes().decode().split("\n")
        for number in np.flatnonzero(noised.changed).tolist():
            ids, words = [], self.options.protect
            kept = {text: part for part, text in self._pieces(sentences[number]) if text in words}
            for piece in cut_out(lines[number], kept) if words else [lines[number]]:
                ids += kept[piece].tolist() if piece in kept else self._indices(piece)
            sentences[number] = np.array([*ids, self.dictionary.eos()], self.dtype)
        return Noised(np.concatenate(sentences).view(np.uint8), noised.changed, noised.counts)

    def _indices(self, text: str) -> list[int]:
        return [self.dictionary.index(symbol) for symbol in self.model.encode(text).split()]


def needs_model(options: NoiseOptions) -> bool:
    """Whether these options need the sentences of a data-bin as text, and so the subword model."""
    return options.level == "char" or options.word_tokenizer == "char"


def _is_marked(symbol: str, kind: str | None) -> bool:
    return symbol.startswith(SPACE_MARK) if kind == "sentencepiece" else symbol.endswith(JOINT)
