"""All rules over all pairs: which pair is dropped by which rule, as a table, and examples.

Rules that look at one pair come first (`rules`). Then, among the pairs that are left: `unlikely`, the pairs whose
log-probability per token is below a quantile of all of them, and `same_target`, the later pairs of a target that
enough pairs have. These need all pairs, so the verdicts are made when all blocks are finished.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fairseq_kd.core.progress import Progress
from fairseq_kd.sequence.answers import Answer
from fairseq_kd.sequence.decode_options import Hypothesis
from fairseq_kd.sequence.filters.rules import Pair, Rule

EXAMPLES = 20  # per rule
KEPT, NO_ANSWER = -1, -2


@dataclass(frozen=True)
class Verdicts:
    """names: of the rules in their order. codes: int16 (sentences,), the rule that drops a pair, KEPT, or NO_ANSWER.

    threshold: the quantile of --drop-unlikely in nats, or None.
    """

    names: list[str]
    codes: np.ndarray
    threshold: float | None = None

    def rule(self, number: int) -> str | None:
        """The name of the rule that drops a pair, None for a pair that stays."""
        code = int(self.codes[number])
        return self.names[code] if code >= 0 else None

    def examples(self) -> set[int]:
        """The numbers of the first pairs that each rule drops."""
        firsts = (np.flatnonzero(self.codes == code)[:EXAMPLES] for code in range(len(self.names)))
        return {number for first in firsts for number in first.tolist()}

    def table(self) -> dict:
        """For the manifest: the pairs, those that each rule drops, in their order, and those that are kept."""
        dropped = {name: int((self.codes == code).sum()) for code, name in enumerate(self.names)}
        found = {"pairs": int((self.codes != NO_ANSWER).sum()), "dropped": dropped}
        found["kept"] = int((self.codes == KEPT).sum())
        return found if self.threshold is None else found | {"unlikely_below": self.threshold}


def judge(answers: Iterable[Answer], dataset, rules: list[Rule], filters: dict, lenpen: float) -> Verdicts:
    """The verdict on each sentence of `dataset`, in memory 2 to 18 bytes per sentence.

    answers: one per sentence, in order. rules: for single pairs. lenpen: by which scores of the search are divided.
    """
    share, most = filters.get("drop_unlikely"), filters.get("max_same_target")
    names = list(dict.fromkeys(rule.name for rule in rules))
    codes = np.full(len(dataset), KEPT, np.int16)
    lprobs = np.full(len(dataset) if share else 0, np.nan)
    hashes = np.zeros(len(dataset) if most else 0, "<u8")
    progress = Progress("filtering", len(dataset), "sentences")
    for number, answer in enumerate(answers):
        codes[number] = _code(answer, dataset, rules, names)
        if answer.hypotheses and share:
            lprobs[number] = per_token(answer.best, lenpen)
        if answer.hypotheses and most:
            hashes[number] = _hash(answer.best.tokens)
        progress.advance(1)
    progress.finish()
    threshold = None
    if share:
        names.append("unlikely")
        threshold = _drop_unlikely(codes, lprobs, share, len(names) - 1)
    if most:
        names.append("same_target")
        _drop_same(codes, hashes, most, len(names) - 1)
    return Verdicts(names, codes, threshold)


def _code(answer: Answer, dataset, rules: list[Rule], names: list[str]) -> int:
    if not answer.hypotheses:
        return NO_ANSWER
    pair = Pair(dataset.src[answer.number].numpy()[:-1], answer)
    return next((names.index(rule.name) for rule in rules if rule.drops(pair)), KEPT)


def per_token(hypothesis: Hypothesis, lenpen: float) -> float:
    """The log-probability per token, EOS included, of a hypothesis of T tokens: score * T ** lenpen / T."""
    return hypothesis.score * hypothesis.scored_tokens ** (lenpen - 1)


def _drop_unlikely(codes: np.ndarray, lprobs: np.ndarray, share: float, code: int) -> float | None:
    """Drop the pairs below the quantile of those that are left; return it. Gold targets have no score and stay."""
    counted = (codes == KEPT) & np.isfinite(lprobs)
    if not counted.any():
        return None
    threshold = float(np.quantile(lprobs[counted], share, method="lower"))
    codes[counted & (lprobs < threshold)] = code
    return threshold


def _drop_same(codes: np.ndarray, hashes: np.ndarray, most: int, code: int) -> None:
    """Drop pairs whose target `most` earlier pairs have that are left."""
    left = np.flatnonzero(codes == KEPT)
    order = np.argsort(hashes[left], kind="stable")
    found = hashes[left][order]
    place = np.arange(len(found))
    first = np.maximum.accumulate(np.where(np.diff(found, prepend=found[:1] + 1) != 0, place, 0))
    codes[left[order[place - first >= most]]] = code


def _hash(tokens: np.ndarray) -> int:
    digest = hashlib.blake2b(np.asarray(tokens, "<i8").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
