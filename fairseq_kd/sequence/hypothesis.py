"""What a decoder answers."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Hypothesis:
    """Token ids (length,) without EOS, and the log-probability a token (nats; beam search: by --lenpen)."""

    tokens: np.ndarray
    score: float
