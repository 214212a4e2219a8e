"""Which hypothesis of a sentence becomes the target: `fairseq-kd decode --select`."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice

import numpy as np

from fairseq_kd.scoring.pairwise import Pairwise, sentence_metric
from fairseq_kd.scoring.score import Scorer, choose_scorer
from fairseq_kd.scoring.tokenizers import LOOKED_AT
from fairseq_kd.sequence.answers import Answer
from fairseq_kd.sequence.decode_options import DecodeOptions, Hypothesis
from fairseq_kd.sequence.estimate import Estimator
from fairseq_kd.sequence.second_model import SecondModel
from fairseq_kd.sequence.texts import Texts
from fairseq_kd.teacher.ensemble import Teachers

DECIMALS = 9  # of expected scores, so that rounding errors of a sum do not decide between equal ones


class Selector(ABC):
    """Gives each hypothesis of a sentence a value; the largest one is chosen."""

    @abstractmethod
    def values(self, answers: list[Answer]) -> list[list[float | None]]:
        """One value per hypothesis of each answer; None: it has none and is chosen only if no other one has."""

    @abstractmethod
    def describe(self) -> dict:
        """On what the choice depends, for the manifest."""


class Closest(Selector):
    """The hypothesis that is nearest to the gold target by a sentence-level metric.

    Source: Kim & Rush 2016, section 3.3, sequence-level interpolation.
    """

    def __init__(self, texts: Texts, dataset, metric: str, scorer: Scorer):
        self.texts, self.dataset, self.metric, self.scorer = texts, dataset, metric, scorer
        self._score = sentence_metric(metric, scorer)

    def values(self, answers: list[Answer]) -> list[list[float | None]]:
        """See `Selector`."""
        found = []
        for answer in answers:
            gold = self.texts.target(self.dataset.tgt[answer.number].numpy()[:-1])
            found.append([self._score(self.texts.target(h.tokens), gold) for h in answer.hypotheses])
        return found

    def describe(self) -> dict:
        """See `Selector`."""
        return {"metric": self.metric, "post_process": self.texts.post_process, "tokenize": self.scorer.recorded}


class MinimumBayesRisk(Selector):
    """The hypothesis with the largest expected score against all hypotheses of its sentence as references.

    Source: Kumar & Byrne 2004; with samples, Eikema & Aziz 2020. A hypothesis counts as often as it is in the list.
    """

    def __init__(self, texts: Texts, metric: str, scorer: Scorer, weights: str, lenpen: float):
        """weights: of the references, "uniform" or "model". lenpen: by which the scores of the search are divided."""
        self.texts, self.metric, self.scorer = texts, metric, scorer
        self.weights, self.lenpen = weights, lenpen
        self._pairwise = Pairwise(metric, scorer)

    def values(self, answers: list[Answer]) -> list[list[float | None]]:
        """See `Selector`."""
        groups = [[self.texts.target(h.tokens) for h in answer.hypotheses] for answer in answers]
        weights = None
        if self.weights == "model":
            weights = [posterior(answer.hypotheses, self.lenpen) for answer in answers]
        return [expected.round(DECIMALS).tolist() for expected in self._pairwise.expected(groups, weights)]

    def describe(self) -> dict:
        """See `Selector`."""
        how = {"metric": self.metric, "weights": self.weights}
        return how | {"post_process": self.texts.post_process, "tokenize": self.scorer.recorded}


def posterior(hypotheses: list[Hypothesis], lenpen: float) -> np.ndarray:
    """(n,): the model's probabilities of hypotheses, divided by their sum.

    The score of a hypothesis of T tokens with EOS is its log-probability / T ** lenpen.
    """
    lprobs = np.array([h.score * h.scored_tokens**lenpen for h in hypotheses])
    probs = np.exp(lprobs - lprobs.max())
    return probs / probs.sum()


class BySecondModel(Selector):
    """The hypothesis with the largest log-probability per token by another model.

    A forward model scores the hypothesis given the source; a reverse model scores the source given the hypothesis, the
    channel model of Yee et al. 2019.
    """

    def __init__(self, model: SecondModel, dataset):
        self.model, self.dataset = model, dataset

    def values(self, answers: list[Answer]) -> list[list[float | None]]:
        """See `Selector`. A hypothesis without tokens or beyond the model's positions has no value."""
        sources = [self.dataset.src[answer.number].numpy()[:-1] for answer in answers for _ in answer.hypotheses]
        targets = [h.tokens for answer in answers for h in answer.hypotheses]
        found = iter(self.model.lprobs(sources, targets))
        return [list(islice(found, len(answer.hypotheses))) for answer in answers]

    def describe(self) -> dict:
        """See `Selector`."""
        return self.model.describe()


class ByEstimate(Selector):
    """The hypothesis with the largest estimate of its quality."""

    def __init__(self, estimator: Estimator, texts: Texts, dataset):
        self.estimator, self.texts, self.dataset = estimator, texts, dataset

    def values(self, answers: list[Answer]) -> list[list[float | None]]:
        """See `Selector`. A hypothesis without tokens has no value."""
        sources = [self.texts.source(self.dataset.src[a.number].numpy()[:-1]) for a in answers for _ in a.hypotheses]
        hypotheses = [h for answer in answers for h in answer.hypotheses]
        filled = [at for at, hypothesis in enumerate(hypotheses) if len(hypothesis.tokens)]
        values: list[float | None] = [None] * len(hypotheses)
        targets = [self.texts.target(hypotheses[at].tokens) for at in filled]
        for at, value in zip(filled, self.estimator([sources[at] for at in filled], targets), strict=True):
            values[at] = value
        found = iter(values)
        return [list(islice(found, len(answer.hypotheses))) for answer in answers]

    def describe(self) -> dict:
        """See `Selector`."""
        return self.estimator.describe() | {"post_process": self.texts.post_process}


def open_selector(teachers: Teachers, options: DecodeOptions, texts, estimator, second_model) -> Selector | None:
    """The selector of --select; None for best. texts, estimator, second_model: those that the options need.

    Raises KDError for a tokeniser that does not fit the text or is not installed.
    """
    if options.select == "best":
        return None
    if options.select == "model":
        return BySecondModel(second_model, teachers.dataset)
    if options.select == "qe":
        return ByEstimate(estimator, texts, teachers.dataset)
    scorer = Scorer()
    if options.metric == "bleu":
        scorer = choose_scorer(teachers.task.cfg.target_lang, options.tokenize, _target_lines(teachers, texts))
    if options.select == "closest":
        return Closest(texts, teachers.dataset, options.metric, scorer)
    lenpen = options.settings().get("lenpen", 1.0)
    return MinimumBayesRisk(texts, options.metric, scorer, options.mbr_weights or "uniform", lenpen)


def _target_lines(teachers: Teachers, texts: Texts) -> Iterator[str]:
    """Text in the target language: gold targets, evenly spaced over the subset; without them its dictionary."""
    dataset = teachers.dataset
    if dataset.tgt is None:
        yield from islice(texts.symbols[1], LOOKED_AT)
        return
    for number in np.unique(np.linspace(0, len(dataset) - 1, LOOKED_AT).astype(int)):
        yield texts.target(dataset.tgt[number].numpy()[:-1])
