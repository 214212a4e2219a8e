"""What is known about one sentence: its hypotheses, the chosen one, and measurements for the filters.

A part file holds one JSON line per sentence: the hypotheses [[score, value or null, token ids], ...], best first (with
a fourth entry where the score is about other tokens: their number), the number of the chosen one, null or the reason
why the teacher has no answer, and, if filters need them, a mapping with measurements of the chosen hypothesis. Without
an answer the only hypothesis is the gold target (--fallback reference), or there is none (--fallback drop).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.records import read_part
from fairseq_kd.core.errors import KDError
from fairseq_kd.sequence.decode_options import Hypothesis

AT_LIMIT = "at_limit"


@dataclass
class Answer:
    """One sentence.

    number: of the sentence. fallback: the reason why the teacher has no answer, or None. values: of each hypothesis,
    by which one is chosen; None: it has no value. measured: name -> value of the chosen one; AT_LIMIT of one that
    has the greatest length of the search.
    """

    number: int
    hypotheses: list[Hypothesis]
    fallback: str | None = None
    chosen: int = 0
    values: list[float | None] | None = None
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> Hypothesis | None:
        """The chosen hypothesis."""
        return self.hypotheses[self.chosen] if self.hypotheses else None

    def choose(self, values: list[float | None]) -> None:
        """Choose the hypothesis with the largest value, the first of equal ones; without any value the first."""
        self.values = values
        self.chosen = max(range(len(values)), key=lambda at: (-np.inf if values[at] is None else values[at], -at))

    def as_line(self) -> str:
        """The line of the part file."""
        values = self.values or [None] * len(self.hypotheses)
        listed = [
            [_number(h.score), value, h.tokens.tolist(), *([] if h.scored is None else [h.scored])]
            for h, value in zip(self.hypotheses, values, strict=True)
        ]
        more = [self.measured] if self.measured else []
        return json.dumps([listed, self.chosen, self.fallback, *more], separators=(",", ":")) + "\n"

    @classmethod
    def of_line(cls, number: int, line: str) -> "Answer":
        """Read a line. Raises TypeError or ValueError for another content."""
        listed, chosen, fallback, *more = json.loads(line)
        hypotheses = [
            Hypothesis(np.array(ids, dtype=np.int64), float("nan") if score is None else score, *scored)
            for score, _, ids, *scored in listed
        ]
        (measured,) = more or [{}]
        return cls(number, hypotheses, fallback, chosen, [value for _, value, *_ in listed], measured)


def _number(score: float) -> float | None:
    return None if np.isnan(score) else score


def read_answers(folder: Path, blocks: list) -> Iterator[Answer]:
    """Yield the answers of all blocks, in order. Raises KDError when a part was damaged."""
    for block in blocks:
        path = block.path(folder)
        count = 0
        try:
            for line in read_part(path).splitlines():
                answer = Answer.of_line(block.start + count, line)
                count += 1
                yield answer
        except (ValueError, TypeError) as error:
            raise KDError(f"{path} was damaged ({error}): remove it, and run the same command again") from error
        if count != block.end - block.start:
            raise KDError(
                f"{path} has {count} of {block.end - block.start} sentences, so it was damaged: remove it, and run "
                "the same command again"
            )
