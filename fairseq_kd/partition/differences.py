"""How different the parts of a training set are: sizes, lengths, distributions of words, overlap of vocabularies."""

import numpy as np

from fairseq_kd.partition.sentences import Sentences
from fairseq_kd.partition.vocabulary import LEAST, MOST
from fairseq_kd.partition.words import Words

DIGITS = 6  # of the figures in files


def differences(train: Sentences, parts: np.ndarray, number: int) -> dict:
    """The figures of `differences.json`. parts: (sentences,), from 0. number: of parts.

    "parts": one entry per part: sentences, and for each side tokens, mean_length, words, types (different words) and
    jsd_to_all (bits). "all": the same for the whole. "sides": for each side the matrices jsd (bits), overlap (row A,
    column B: share of the types of A that B has) and rare_overlap (of the rare types), the means of their entries
    outside of the diagonal, and as "chance" the means of a random division into parts of the same sizes.
    """
    sizes = np.bincount(parts, minlength=number)
    rows = [{"part": part + 1, "sentences": int(size)} for part, size in enumerate(sizes)]
    whole, sides = {"sentences": len(train)}, {}
    shuffled = np.random.default_rng(0).permutation(parts)
    for side, words in train.words.items():
        lengths, counts = train.lengths[side], words.counts(parts, number)
        for part, row in enumerate(rows):
            row[side] = _describe(lengths[parts == part], counts[part], counts.sum(axis=0))
        whole[side] = _describe(lengths, counts.sum(axis=0), counts.sum(axis=0))
        chance = _means(_matrices(words, words.counts(shuffled, number)))
        matrices = _matrices(words, counts)
        listed = {name: [list(map(_rounded, row)) for row in matrix] for name, matrix in matrices.items()}
        sides[side] = listed | _means(matrices) | {"chance": chance}
    rare = f"in {LEAST} to {MOST} sentences of the training set"
    return {"unit": train.unit, "rare": rare, "parts": rows, "all": whole, "sides": sides}


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> float:
    """The Jensen-Shannon divergence of two distributions in bits, 0 to 1. counts: (words,), not all 0."""
    from scipy.special import rel_entr

    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2
    nats = (rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2
    return float(np.clip(nats / np.log(2), 0, 1))


def overlap(own: np.ndarray, other: np.ndarray) -> float:
    """The share of the types of `own` that `other` has; nan without types. Both bool (words,)."""
    return float((own & other).sum() / own.sum()) if own.any() else float("nan")


def _describe(lengths: np.ndarray, counts: np.ndarray, whole: np.ndarray) -> dict:
    return {
        "tokens": int(lengths.sum()),
        "mean_length": _rounded(lengths.mean()),
        "words": int(counts.sum()),
        "types": int((counts > 0).sum()),
        "jsd_to_all": _rounded(jensen_shannon(counts, whole)) if counts.sum() else None,
    }


def _matrices(words: Words, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> (parts, parts). Entries of a part without words are nan."""
    number, has = len(counts), counts > 0
    found = words.in_sentences()
    rare = has & (found >= LEAST) & (found <= MOST)
    jsd = np.zeros((number, number))
    for one in range(number):
        for other in range(one):
            both = counts[one].sum() and counts[other].sum()
            jsd[one, other] = jsd[other, one] = jensen_shannon(counts[one], counts[other]) if both else np.nan
    pairs = {"overlap": has, "rare_overlap": rare}
    found = {name: np.array([[overlap(a, b) for b in sets] for a in sets]) for name, sets in pairs.items()}
    return {"jsd": jsd} | found


def _means(matrices: dict[str, np.ndarray]) -> dict:
    """mean_NAME -> the mean of the entries outside of the diagonal, None without any."""
    found = {}
    for name, matrix in matrices.items():
        values = matrix[~np.eye(len(matrix), dtype=bool)]
        found[f"mean_{name}"] = _rounded(values[~np.isnan(values)].mean()) if (~np.isnan(values)).any() else None
    return found


def _rounded(value) -> float | None:
    return None if np.isnan(value) else round(float(value), DIGITS)
