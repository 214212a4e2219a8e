"""What a claim is, what a kind of claim gives, and the register of kinds."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from fairseq_kd.evaluation.measured import Measured
from fairseq_kd.scoring.score import LOWER_IS_BETTER
from fairseq_kd.study.claims.finder import Finder

SUPPORTED, REFUTED, UNDECIDED = "supported", "refuted", "undecided"
CONDITIONS = r"(?: at (?P<at>.+?))?(?: on (?P<on>\S+))?"
TAIL = rf"{CONDITIONS} by (?P<metric>\S+)"
TAIL_FORM = "[at FACTOR VALUE, ...] [on SET] by METRIC"
NAMES = {"bleu": "BLEU", "chrf": "chrF2", "ter": "TER"}
RESAMPLES = 10_000  # of the bootstrap over segments: with 1,000, p after Holm's correction could not become small


@dataclass(frozen=True)
class Claim:
    """A claim that was read.

    text: as written. kind: name of its kind. on: evaluation set. systems: name -> ((cell, set), ...), one per seed, the
    same seeds in the same order for each system. details: JSON, what the kind needs for its test. options: of
    `fairseq-kd compare`, which measures the systems.
    """

    text: str
    kind: str
    metric: str
    on: str
    systems: dict
    details: dict = field(default_factory=dict)
    options: tuple = ("--scores-only", "--paired-bs-n", str(RESAMPLES))

    def as_dict(self) -> dict:
        """For plan.json and results.json."""
        systems = {name: [list(run) for run in runs] for name, runs in self.systems.items()}
        shared = {"text": self.text, "kind": self.kind, "metric": self.metric, "on": self.on, "systems": systems}
        return shared | self.details


@dataclass(frozen=True)
class Outcome:
    """What a test has found.

    said: the finding as a clause, with figures. p: before Holm's correction; None where nothing can be tested.
    favours: the verdict if p is below the level. interval: 95 %. detectable: level -> the smallest difference that the
    test would have found; None where that is not known. finds: that difference in words, with {} for the number.
    note: a sentence to add. verdict: for a kind that has no p.
    """

    said: str
    test: str
    estimate: float | None = None
    interval: tuple | None = None
    p: float | None = None
    favours: str = UNDECIDED
    detectable: Callable[[float], float | None] | None = None
    finds: str = "a difference of {} or more"
    sample: str = ""
    note: str = ""
    verdict: str | None = None


class Kind(ABC):
    """A kind of claim.

    form: for messages and pages. hint: found in every text of this kind, also in one that is not well formed. pattern:
    matches the whole text, with the groups of TAIL.
    """

    name: str
    form: str
    hint: re.Pattern
    pattern: re.Pattern

    @abstractmethod
    def read(self, finder: Finder, found: re.Match) -> Claim:
        """The claim of a text that matches the pattern. Raises KDError for cells that the study does not have."""

    def test(self, claim: dict, content: dict) -> Outcome:
        """Test a claim. claim: of `Claim.as_dict`. content: of the file that `fairseq-kd compare` has written."""
        return self.judge(claim, Measured.of(content))

    def judge(self, claim: dict, measured: Measured) -> Outcome:
        """Test a claim by the scores of its systems."""
        raise NotImplementedError


KINDS = {}


def register(kind: type[Kind]) -> type[Kind]:
    """Add a kind of claim (a decorator)."""
    assert kind.name not in KINDS, f"the kind {kind.name} is registered twice"
    KINDS[kind.name] = kind()
    return kind


def better(metric: str) -> int:
    """1 for a metric where higher scores are better, else -1: a score times this number is a quality."""
    return -1 if metric in LOWER_IS_BETTER else 1
