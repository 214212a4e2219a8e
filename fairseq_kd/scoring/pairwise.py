"""Sentence-level chrF2 and BLEU of every text of a group against every other one, as sacreBLEU defines them.

The n-grams of each text are counted once. Two texts a and b have

    Σ over n-grams g of min(count of g in a, count of g in b)
        = Σ over n-grams g and k = 1, 2, ... of [count of g in a >= k] [count of g in b >= k]

n-grams in common, so the matches of all pairs of many groups are one sparse matrix product of zeros and ones. A group
of n texts with m characters each costs O(n m log(n m)) for the n-grams and at most O(n² m) for the product.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from sacrebleu.metrics import BLEU, CHRF
from scipy.sparse import csr_matrix

from fairseq_kd.scoring.score import Scorer
from fairseq_kd.scoring.tokenizers import STANDARD

SYMBOLS = 1 << 18  # characters or words that are handled at a time
WORDS = 1 << 16  # words between spaces whose tokens are kept
CHARACTER_ORDERS, WORD_ORDERS, BETA = CHRF.CHAR_ORDER, 4, CHRF.BETA


def sentence_metric(metric: str, scorer: Scorer) -> Callable[[str, str], float]:
    """(hypothesis, reference) -> sentence-level score of sacreBLEU, 0 to 100.

    "bleu": with the effective order, so that sentences of fewer than four words have a score. "chrf": chrF2.
    """
    found = _metric(metric, scorer)
    return lambda hypothesis, reference: found.sentence_score(hypothesis, [reference]).score


def _metric(metric: str, scorer: Scorer) -> BLEU | CHRF:
    return scorer.metric(metric, **({"effective_order": True} if metric == "bleu" else {}))


def _tokens(tokenizer: Callable[[str], str], scorer: Scorer) -> Callable[[str], list[str]]:
    """The tokens of a text.

    Each rule of 13a looks at a character and its neighbour, and treats a space like any other character that is no
    digit. So the tokens of a line without line breaks are those of its words between spaces, one after the other, and
    texts that share words share work. A word of letters and digits alone is one token.
    """
    if scorer.tokenize != STANDARD:
        return lambda text: tokenizer(text).split()
    of_word = functools.lru_cache(WORDS)(lambda word: [word] if word.isalnum() else tokenizer(word).split())
    return lambda text: tokenizer(text).split() if "\n" in text else [*chain.from_iterable(map(of_word, text.split()))]


class Pairwise:
    """A metric of `sentence_metric` for all pairs of a group of texts."""

    def __init__(self, metric: str, scorer: Scorer):
        """metric: "chrf" or "bleu". scorer: splits text into the words of BLEU."""
        self.metric = metric
        self._tokenize = _tokens(_metric(metric, scorer).tokenizer, scorer) if metric == "bleu" else None

    def matrices(self, groups: Sequence[Sequence[str]]) -> Iterator[np.ndarray]:
        """Yield float64 (n, n), 0 to 100, per group of n texts: row i, column j scores text i with j as the reference.

        Equal texts are scored once.
        """
        waiting, symbols = [], 0
        for texts in groups:
            different = list(dict.fromkeys(texts))
            waiting.append((texts, different, [self._symbols(text) for text in different]))
            symbols += sum(map(len, waiting[-1][2]))
            if symbols > SYMBOLS:
                yield from self._scored(waiting)
                waiting, symbols = [], 0
        yield from self._scored(waiting)

    def expected(self, groups: Sequence[Sequence[str]], weights: Sequence[np.ndarray] | None = None):
        """Yield (n,) per group: the mean score of each text against all texts as references, itself included.

        weights: (n,) per group, of the references, positive; None: equal.
        """
        for number, scores in enumerate(self.matrices(groups)):
            yield np.average(scores, axis=1, weights=None if weights is None else weights[number])

    def _symbols(self, text: str):
        """What n-grams consist of: the code points without white space (array), or the words (list)."""
        if self._tokenize:
            return self._tokenize(text.rstrip())
        return np.frombuffer("".join(text.split()).encode("utf-32-le", "surrogatepass"), "<u4")

    def _scored(self, waiting) -> Iterator[np.ndarray]:
        symbols = [row for _, _, rows in waiting for row in rows]
        if self._tokenize:
            known: dict[str, int] = {}
            symbols = [np.array([known.setdefault(word, len(known)) for word in row], np.int64) for row in symbols]
        pairs = Pairs.of(np.array([len(different) for _, different, _ in waiting], np.int64))
        if self._tokenize:
            scores = bleu(*pairs.statistics(symbols, WORD_ORDERS))
        else:
            scores = chrf(*pairs.statistics(symbols, CHARACTER_ORDERS))
        for (texts, different, _), start in zip(waiting, pairs.starts, strict=True):
            count, places = len(different), {text: place for place, text in enumerate(different)}
            rows = np.array([places[text] for text in texts], np.int64)
            yield scores[start : start + count * count].reshape(count, count)[np.ix_(rows, rows)]


@dataclass(frozen=True)
class Pairs:
    """All ordered pairs (P) of texts of one group, group by group, row by row; the N texts are numbered through.

    sizes, starts: of each group, its number of texts and its first pair. first: its first text. group: (N,) of texts.
    """

    sizes: np.ndarray
    starts: np.ndarray
    first: np.ndarray
    group: np.ndarray

    @classmethod
    def of(cls, sizes: np.ndarray) -> "Pairs":
        """sizes: the number of texts per group."""
        starts, first = (np.cumsum(each) - each for each in (sizes**2, sizes))
        return cls(sizes, starts, first, np.repeat(np.arange(len(sizes)), sizes))

    def number(self, hypothesis: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """The numbers of pairs of texts."""
        group = self.group[hypothesis]
        first = self.first[group]
        return self.starts[group] + (hypothesis - first) * self.sizes[group] + reference - first

    def statistics(self, symbols: list[np.ndarray], orders: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """float64 (orders, P) each: n-grams in common, n-grams of the hypothesis, n-grams of the reference."""
        lengths = np.array([len(row) for row in symbols], np.int64)
        totals = np.maximum(lengths - np.arange(orders)[:, None], 0).astype(np.float64)  # (orders, N)
        matches = np.zeros((orders, int((self.sizes**2).sum())))
        owner = np.repeat(np.arange(len(symbols)), lengths)
        for order, (grams, owners) in enumerate(_ngrams(symbols, owner, self.group, orders)):
            found = _common(grams, owners, len(symbols)).tocoo()
            matches[order, self.number(found.row, found.col)] = found.data
        own = np.arange(len(symbols))
        matches[:, self.number(own, own)] = totals
        per_row = self.sizes[self.group]  # pairs of which a text is the hypothesis
        hypothesis = np.repeat(own, per_row)
        inside = np.arange(len(hypothesis)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
        return matches, totals[:, hypothesis], totals[:, self.first[self.group[hypothesis]] + inside]


def _ngrams(symbols: list[np.ndarray], owner: np.ndarray, group: np.ndarray, orders: int):
    """Yield (numbers that identify the n-grams of one group, owners), (T,) each, for n = 1 to `orders`."""
    if len(owner) == 0:
        return
    different, joined = np.unique(np.concatenate([*symbols, np.zeros(0, np.int64)]), return_inverse=True)
    width, grams = len(different), group[owner]
    kinds = len(group)
    for order in range(orders):
        if kinds > 2**62 // (width * len(group)):  # the next number would not fit in 64 bits
            ranks, grams = np.unique(grams, return_inverse=True)
            kinds = len(ranks)
        grams = grams[: max(len(joined) - order, 0)] * width + joined[order:]
        kinds *= width
        inside = owner[: len(grams)] == owner[order:]
        yield grams[inside], owner[: len(grams)][inside]


def _common(grams: np.ndarray, owner: np.ndarray, count: int) -> csr_matrix:
    """(count, count): the n-grams that every two different texts have in common, as often as both have them."""
    keys = np.sort(grams * count + owner)
    place = np.arange(len(keys))
    grams, owner = np.divmod(keys, count)
    of_gram = np.maximum.accumulate(np.where(np.diff(grams, prepend=-1) != 0, place, 0))
    of_both = np.maximum.accumulate(np.where(np.diff(keys, prepend=-1) != 0, place, 0))
    column = of_gram + place - of_both  # of the n-gram and k: the text has it for the k-th time
    shared = np.bincount(column, minlength=1)[column] > 1
    column, owner = column[shared], owner[shared]
    ones = np.ones(len(column), np.float32)
    has = csr_matrix((ones, (owner, column)), shape=(count, max(len(keys), 1)))
    return has @ has.T


def chrf(matches: np.ndarray, of_hypothesis: np.ndarray, of_reference: np.ndarray) -> np.ndarray:
    """chrF2 (P,) from numbers of n-grams (orders, P). Source: Popović 2015, as in sacreBLEU.

    Precision and recall are means over the orders of which both texts have n-grams.
    """
    orders = np.maximum(((of_hypothesis > 0) & (of_reference > 0)).sum(axis=0), 1)
    precision = (matches / np.maximum(of_hypothesis, 1)).sum(axis=0) / orders
    recall = (matches / np.maximum(of_reference, 1)).sum(axis=0) / orders
    below = BETA**2 * precision + recall
    return 100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1)


def bleu(matches: np.ndarray, of_hypothesis: np.ndarray, of_reference: np.ndarray) -> np.ndarray:
    """BLEU (P,) with the effective order and exponential smoothing, from numbers of n-grams (orders, P).

    Source: Papineni et al. 2002; Chen & Cherry 2014, method 3, as in sacreBLEU: the k-th order without a match counts
    1 / 2^k matches.
    """
    exists = of_hypothesis > 0
    missing = exists & (matches == 0)
    smoothed = np.where(missing, 0.5 ** np.cumsum(missing, axis=0), matches)
    logs = np.log(smoothed / np.maximum(of_hypothesis, 1), where=exists, out=np.zeros_like(smoothed))
    mean = logs.sum(axis=0) / np.maximum(exists.sum(axis=0), 1)
    brevity = np.minimum(0, 1 - of_reference[0] / np.maximum(of_hypothesis[0], 1))
    return np.where(matches.any(axis=0), 100 * np.exp(mean + brevity), 0.0)
