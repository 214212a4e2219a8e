"""Decoding in blocks: every sentence has its answer, in its place.

A part file holds one JSON line a sentence: [[score, closeness or null, token ids], ...], best first, the number of the
chosen one, and null or the reason why the gold target stands in.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.blocks import Block, cut_blocks
from fairseq_kd.artifacts.manifest import check_files
from fairseq_kd.core.errors import KDError
from fairseq_kd.sequence.assemble import assemble
from fairseq_kd.sequence.backend import empty_sources
from fairseq_kd.sequence.options import DecodeOptions, Hypothesis
from fairseq_kd.sequence.select import Closeness, closest
from fairseq_kd.teacher.ensemble import Teachers


@dataclass
class DecodeWork:
    """A `Work`: decodes blocks, and makes a data-bin of them."""

    teachers: Teachers
    options: DecodeOptions
    backend: object
    closeness: Closeness | None
    data_bin: Path
    block_sentences: int
    label: str = "decoding"
    unit: str = "sentences"

    @cached_property
    def blocks(self) -> list[Block]:
        """Runs of neighbouring sentences."""
        return cut_blocks(np.ones(len(self.teachers.dataset), dtype=np.int64), self.block_sentences)

    @cached_property
    def too_long(self) -> np.ndarray:
        """Mask (sentences,): those that the teacher has no positions for. Raises KDError with --fallback error."""
        dataset, (sources, targets) = self.teachers.dataset, self.teachers.max_positions
        found = np.asarray(dataset.src_sizes) > sources
        if self.options.strategy == "teacher-forcing":
            found |= np.asarray(dataset.tgt_sizes) > targets
        if self.options.fallback == "error" and found.any():
            raise KDError(
                f"sentence {np.flatnonzero(found)[0]} is longer than the teacher's positions, {int(found.sum()):,} are "
                "(--fallback reference keeps their gold targets)"
            )
        return found

    def part(self, block: Block, advance):
        """One JSON line a sentence, see the module's text."""
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
                raise KDError(
                    f"the teacher gives nothing for sentence {number}, {why} (--fallback reference keeps its gold)"
                )
            hypotheses = [Hypothesis(self.teachers.dataset.tgt[number].numpy()[:-1], float("nan"))]
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
        return assemble(folder, request, self.teachers, self.options, self.data_bin, self.blocks)

    def check(self, folder: Path, manifest: dict) -> None:
        """Raises KDError when a file of the finished data-bin is missing or was changed."""
        check_files(folder, manifest["files"])
