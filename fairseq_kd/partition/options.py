"""The options of `fairseq-kd partition`, checked against the rule."""

import math
from dataclasses import dataclass

from fairseq_kd.core.errors import KDError

ALPHA = 0.5  # default where a rule needs it
TOPICS = 10  # default, or the number of parts where that is larger
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class PartitionOptions:
    """How a corpus is divided. None: the default of the rule, or without an effect on it.

    parts: number of parts. by: name of a rule. alpha: of the Dirichlet distribution, 0 to inf. seed: of what is drawn.
    topics: number of topics. min_sentences: least size of a part.
    """

    parts: int
    by: str
    alpha: float | None = None
    seed: int | None = None
    topics: int | None = None
    min_sentences: int | None = None

    def __post_init__(self):
        if self.parts < 2:
            raise KDError(f"--parts {self.parts}: must be at least 2; one part is the whole corpus")
        if self.alpha is not None and not self.alpha >= 0:
            raise KDError(f"--alpha {self.alpha:g}: must be 0 or above; inf gives equal shares")
        if self.seed is not None and not 0 <= self.seed <= LARGEST_SEED:
            raise KDError(f"--seed {self.seed}: must be 0 or above, and at most {LARGEST_SEED}")
        for name in ("topics", "min_sentences"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise KDError(f"--{name.replace('_', '-')} {value}: must be at least 1")

    def as_dict(self) -> dict:
        """For the manifest. An infinite alpha is the text "inf": JSON has no such number."""
        alpha = "inf" if self.alpha is not None and math.isinf(self.alpha) else self.alpha
        found = {"parts": self.parts, "by": self.by, "alpha": alpha, "seed": self.seed, "topics": self.topics}
        return found | {"min_sentences": self.min_sentences}
