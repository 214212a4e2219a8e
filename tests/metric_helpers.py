"""Functions for `evaluate --metric`, as a user's package would have them."""

import numpy as np


def same_length(sources, hypotheses, references):
    """Per segment: the share of the longer text's length that the shorter one has."""
    pairs = zip(hypotheses, references, strict=True)
    return [min(map(len, pair)) / max(1, *map(len, pair)) for pair in pairs]


def count(sources, hypotheses, references):
    return len(hypotheses)


def errors(sources, hypotheses, references):
    """Lower is better; the score is the mean of its segments."""
    segments = np.array([float(a != b) for a, b in zip(hypotheses, references, strict=True)])
    return {"segments": segments, "score": segments.mean(), "lower_is_better": True, "signature": "errors-2"}


def percent(sources, hypotheses, references):
    return {"segments": [1.0] * len(hypotheses), "score": 100}


def source_words(sources, hypotheses, references):
    return [float(len(line.split())) for line in sources]


def fails(sources, hypotheses, references):
    raise RuntimeError("no model\nis here")


def too_few(sources, hypotheses, references):
    return [1.0]


def nothing(sources, hypotheses, references):
    return None


def infinite(sources, hypotheses, references):
    return [float("nan")] * len(hypotheses)


def misspelt(sources, hypotheses, references):
    return {"segment": [1.0] * len(hypotheses)}


NUMBER = 3
