"""Decoding in blocks: hypotheses, the choice among them, and what filters measure of the chosen one."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.blocks import Block, cut_blocks
from fairseq_kd.artifacts.manifest import check_files
from fairseq_kd.core.errors import KDError
from fairseq_kd.sequence.answers import AT_LIMIT, Answer
from fairseq_kd.sequence.assemble import Given, assemble
from fairseq_kd.sequence.backend import empty_sources
from fairseq_kd.sequence.decode_options import DecodeOptions, Hypothesis
from fairseq_kd.sequence.judges import NO_JUDGES, Judges
from fairseq_kd.teacher.ensemble import Teachers


@dataclass
class DecodeWork:
    """A `Work` that decodes blocks and assembles a data-bin from them."""

    teachers: Teachers
    options: DecodeOptions
    backend: object
    given: Given
    block_sentences: int
    judges: Judges = NO_JUDGES
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
        """One JSON line per sentence, see `answers`."""
        numbers = np.arange(block.start, block.end)
        left_out = numbers[self.too_long[numbers]]
        advance(len(left_out))
        found = self.backend.translate(numbers[~self.too_long[numbers]], advance)
        answers = [self._answer(number, found.get(number)) for number in numbers.tolist()]
        answered = [answer for answer in answers if answer.fallback is None]
        self.judges.judge(answered)
        for answer in answered:
            answer.measured |= {AT_LIMIT: 1} if answer.best.at_limit else {}
        for answer in answers:
            yield answer.as_line().encode()

    def _answer(self, number: int, hypotheses: list[Hypothesis] | None) -> Answer:
        fallback = None
        if hypotheses is None:
            assert self.too_long[number], f"no answer for sentence {number}"
            fallback = "too_long"
        elif not hypotheses or len(hypotheses[0].tokens) == 0:
            fallback = "empty_source" if self._empty_sources[number] else "empty"
        if fallback is None:
            return Answer(number, hypotheses)
        if self.options.fallback == "error":
            why = "whose source is empty" if fallback == "empty_source" else "whose source is not empty"
            raise KDError(f"the teacher gives nothing for sentence {number}, {why} ({self._other_fallbacks})")
        return Answer(number, self._without_answer(number), fallback)

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

    def join(self, folder: Path, request: dict) -> dict:
        """See `assemble`."""
        return assemble(folder, request, self.teachers, self.options, self.given, self.blocks, self.judges.texts)

    def check(self, folder: Path, manifest: dict) -> None:
        """Raises KDError when a file of the finished data-bin is missing or was changed."""
        check_files(folder, manifest["files"])
