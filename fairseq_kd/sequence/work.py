"""Decoding in blocks, and the choice of one hypothesis among the n best.

A part file holds one JSON line per sentence: the hypotheses [[score, closeness or null, token ids], ...], best first,
the number of the chosen one, and null or the reason why the teacher has no answer. Then the only hypothesis is the gold
target (--fallback reference), or there is none (--fallback drop).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.blocks import Block, cut_blocks
from fairseq_kd.artifacts.manifest import check_files
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.subword import subword_decoder
from fairseq_kd.scoring.score import Scorer, choose_scorer
from fairseq_kd.scoring.tokenizers import LOOKED_AT
from fairseq_kd.sequence.assemble import Given, assemble
from fairseq_kd.sequence.backend import empty_sources
from fairseq_kd.sequence.decode_options import DecodeOptions, Hypothesis
from fairseq_kd.teacher.ensemble import Teachers


@dataclass(frozen=True)
class Closeness:
    """How near a hypothesis is to the gold target: both become text, and sacreBLEU scores the hypothesis.

    post_process: the kind of the subwords. decode: from subwords to text. metric: "bleu" or "chrf".
    """

    post_process: str
    decode: Callable[[str], str]
    metric: str
    scorer: Scorer

    def as_dict(self) -> dict:
        """For the manifest."""
        return {"metric": self.metric, "post_process": self.post_process, "tokenize": self.scorer.recorded}

    def sentence_metric(self) -> Callable[[str, str], float]:
        """(hypothesis, reference) -> sentence-level score, 0 to 100.

        "bleu": with the effective order, so that sentences of fewer than four words have a score. "chrf": chrF2.
        """
        metric = self.scorer.metric(self.metric, **({"effective_order": True} if self.metric == "bleu" else {}))
        return lambda hypothesis, reference: metric.sentence_score(hypothesis, [reference]).score


def open_closeness(data_bin, teachers, options: DecodeOptions, post_process: str | None) -> Closeness | None:
    """The closeness for --select closest; None without that option.

    Raises KDError for a data-bin whose subwords cannot become text, and for a tokeniser that does not fit or is not
    installed.
    """
    if options.select != "closest":
        if post_process is not None:
            raise KDError(f"--post-process {post_process} has no effect without --select closest")
        return None
    lang = teachers.task.cfg.target_lang
    kind, decode = subword_decoder(data_bin, lang, post_process)
    scorer = Scorer()
    if options.metric == "bleu":
        scorer = choose_scorer(lang, options.tokenize, map(decode, _gold_lines(teachers)))
    return Closeness(kind, decode, options.metric, scorer)


def _gold_lines(teachers):
    """Gold targets, evenly spaced over the subset, as subwords."""
    dataset, symbols = teachers.dataset, teachers.task.target_dictionary.symbols
    for number in np.unique(np.linspace(0, len(dataset) - 1, LOOKED_AT).astype(int)):
        yield " ".join(symbols[token] for token in dataset.tgt[number][:-1])


def closest(hypotheses: list[str], reference: str, metric: Callable[[str, str], float]) -> tuple[int, list[float]]:
    """(number of the hypothesis that is nearest to the reference, the score of each); the first of equal ones.

    Source: Kim & Rush 2016, section 3.3, sequence-level interpolation.
    """
    scores = [metric(hypothesis, reference) for hypothesis in hypotheses]
    return max(range(len(scores)), key=lambda index: (scores[index], -index)), scores


@dataclass
class DecodeWork:
    """A `Work` that decodes blocks and assembles a data-bin from them."""

    teachers: Teachers
    options: DecodeOptions
    backend: object
    closeness: Closeness | None
    given: Given
    block_sentences: int
    label: str = "decoding"
    unit: str = "sentences"

    @cached_property
    def blocks(self) -> list[Block]:
        """Runs of neighbouring sentences."""
        return cut_blocks(np.ones(len(self.teachers.dataset), dtype=np.int64), self.block_sentences)

    @cached_property
    def too_long(self) -> np.ndarray:
        """Mask (sentences,): the sentences that are longer than the teacher's positions.

        Raises KDError with --fallback error.
        """
        dataset, (sources, targets) = self.teachers.dataset, self.teachers.max_positions
        found = np.asarray(self.teachers.source_sizes) > sources
        if self.options.how.reads_gold:
            found |= np.asarray(dataset.tgt_sizes) > targets
        if self.options.fallback == "error" and found.any():
            raise KDError(
                f"sentence {np.flatnonzero(found)[0]} is longer than the teacher's positions, {int(found.sum()):,} are "
                f"in all ({self._other_fallbacks})"
            )
        return found

    def part(self, block: Block, advance):
        """One JSON line per sentence, see the docstring of the module."""
        numbers = np.arange(block.start, block.end)
        left_out = numbers[self.too_long[numbers]]
        advance(len(left_out))
        found = self.backend.translate(numbers[~self.too_long[numbers]], advance)
        for number in numbers.tolist():
            yield self._line(number, found.get(number)).encode()

    def _line(self, number: int, hypotheses: list[Hypothesis] | None) -> str:
        fallback = None
        if hypotheses is None:
            assert self.too_long[number], f"no answer for sentence {number}"
            fallback = "too_long"
        elif not hypotheses or len(hypotheses[0].tokens) == 0:
            fallback = "empty_source" if self._empty_sources[number] else "empty"
        if fallback is not None:
            if self.options.fallback == "error":
                why = "whose source is empty" if fallback == "empty_source" else "whose source is not empty"
                raise KDError(f"the teacher gives nothing for sentence {number}, {why} ({self._other_fallbacks})")
            hypotheses = self._without_answer(number)
        chosen, nearness = 0, [None] * len(hypotheses)
        if fallback is None and self.options.select == "closest":
            texts = [self._text(hypothesis.tokens) for hypothesis in hypotheses]
            gold = self._text(self.teachers.dataset.tgt[number].numpy()[:-1])
            chosen, nearness = closest(texts, gold, self._metric)
        listed = [
            [None if np.isnan(h.score) else h.score, near, h.tokens.tolist()]
            for h, near in zip(hypotheses, nearness, strict=True)
        ]
        return json.dumps([listed, chosen, fallback], separators=(",", ":")) + "\n"

    def _without_answer(self, number: int) -> list[Hypothesis]:
        """What takes the place of a missing answer: the gold target, or nothing."""
        if self.options.fallback == "drop":
            return []
        return [Hypothesis(self.teachers.dataset.tgt[number].numpy()[:-1], float("nan"))]

    @property
    def _other_fallbacks(self) -> str:
        gold = "--fallback reference keeps the gold targets, " if self.teachers.dataset.tgt is not None else ""
        return f"{gold}--fallback drop leaves such sentences out"

    @cached_property
    def _empty_sources(self) -> np.ndarray:
        return empty_sources(self.teachers.dataset)

    @cached_property
    def _metric(self):
        return self.closeness.sentence_metric()

    def _text(self, tokens: np.ndarray) -> str:
        symbols = self.teachers.task.target_dictionary.symbols
        return self.closeness.decode(" ".join(symbols[token] for token in tokens))

    def join(self, folder: Path, request: dict) -> dict:
        """See `assemble`."""
        return assemble(folder, request, self.teachers, self.options, self.given, self.blocks)

    def check(self, folder: Path, manifest: dict) -> None:
        """Raises KDError when a file of the finished data-bin is missing or was changed."""
        check_files(folder, manifest["files"])
