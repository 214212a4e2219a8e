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
        sizes = [total // parts + (part < total % parts) for part in range(parts)]
        place, where = [-1] * total, {}  # rare word -> how many of its sentences each part has
        lists = [rare.tolist() for rare in self.lists]
        others = (self.found - 1).tolist()
        progress = Progress("rare words", PASSES * total, "sentences")
        for _ in range(PASSES):
            before, filled = place.copy(), [0] * parts
            for number, rare in enumerate(lists):
                counts = [where.setdefault(word, [0] * parts) for word in rare]
                if place[number] >= 0:
                    for count in counts:
                        count[place[number]] -= 1
                place[number] = part = _best([(c, others[w]) for c, w in zip(counts, rare, strict=True)], filled, sizes)
                for count in counts:
                    count[part] += 1
                filled[part] += 1
                progress.advance(1)
            if place == before:
                break
        progress.finish()
        return np.array(place, dtype=np.int64)

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


def _best(counts: list[tuple[list[int], int]], filled: list[int], sizes: list[int]) -> int:
    """The part with the largest score among those with room.

    counts: for each rare word of the sentence (how many of its other sentences each part has, how many these are).
    """
    found = (-1.0, -1.0, 0)
    for part, (has, size) in enumerate(zip(filled, sizes, strict=True)):
        if has < size:
            free = 1 - has / size
            score = free * sum([count[part] / others for count, others in counts])
            found = max(found, (score, free, -part))
    return -found[2]
