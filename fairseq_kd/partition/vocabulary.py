"""The rule `vocabulary`: sentences that have the same rare words are in the same part, as far as equal sizes allow.

The algorithm is our own. It is linear deterministic greedy partitioning (Stanton & Kliot 2012), with several passes
(Nishimura & Ugander 2013), where sentences are the nodes and a rare word is an edge between all sentences that have it:

- A rare word is in LEAST to MOST training sentences.
- The sentences are visited in the order of the corpus, PASSES times.
- A sentence goes to the part with the largest score. The score is a sum over the rare words of the sentence: the share
  of the word's other sentences that the part has. The sum is multiplied by the share of the part that is still free.
  Sentences that were not visited in this pass count in the part of the pass before, in the first pass not at all.
- Ties, and sentences without rare words, go to the part with the largest free share, then to the lowest number.
"""

import itertools

import numpy as np

from fairseq_kd.core.progress import Progress
from fairseq_kd.partition.words import Words

LEAST, MOST = 2, 10  # sentences that have a rare word
PASSES = 10


class RareWords:
    """The rare words of a training set. The division is deterministic: nothing is drawn."""

    def __init__(self, words: Words):
        self.found = words.in_sentences()
        self.is_rare = (self.found >= LEAST) & (self.found <= MOST)
        self.lists = self._lists(words)

    def divide(self, parts: int) -> np.ndarray:
        """The part of each training sentence, int64 (sentences,); sizes are equal or differ by one."""
        total = len(self.lists)
        sizes = np.full(parts, total // parts) + (np.arange(parts) < total % parts)
        place, where = np.full(total, -1, dtype=np.int64), np.zeros((len(self.found), parts))
        progress = Progress("rare words", PASSES * total, "sentences")
        for _ in range(PASSES):
            before, filled = place.copy(), np.zeros(parts, dtype=np.int64)
            for number, rare in enumerate(self.lists):
                if place[number] >= 0:
                    where[rare, place[number]] -= 1
                free = 1 - filled / sizes
                score = (where[rare] / (self.found[rare] - 1)[:, None]).sum(axis=0) * free
                part = max(range(parts), key=lambda p: (free[p] > 0, score[p], free[p], -p))
                place[number] = part
                where[rare, part] += 1
                filled[part] += 1
                progress.advance(1)
            if np.array_equal(place, before):
                break
        progress.finish()
        return place

    def place(self, words: Words, divided: np.ndarray, parts: int) -> np.ndarray:
        """The part of sentences of another subset: the one that has the largest shares of their rare words.

        divided: the part of each training sentence. Ties go to the lowest number. Sentences without a rare word of the
        training set go to the parts in turn.
        """
        where = np.zeros((len(self.found), parts))
        for rare, part in zip(self.lists, divided, strict=True):
            where[rare, part] += 1
        found, turn = np.zeros(len(words), dtype=np.int64), 0
        for number, rare in enumerate(self._lists(words)):
            if len(rare):
                found[number] = np.argmax((where[rare] / self.found[rare][:, None]).sum(axis=0))
            else:
                found[number], turn = turn % parts, turn + 1
        return found

    def _lists(self, words: Words) -> list[np.ndarray]:
        """The different rare words of each sentence."""
        sentences, ids = words.pairs()
        rare = self.is_rare[ids]
        ends = np.searchsorted(sentences[rare], np.arange(len(words) + 1))
        return [ids[rare][start:end] for start, end in itertools.pairwise(ends)]
