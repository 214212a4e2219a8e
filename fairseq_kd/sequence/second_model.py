"""Another frozen model that scores or translates hypotheses: --select model, --round-trip."""

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.language_tokens import language_ids, sources_for_search
from fairseq_kd.inference.multilingual import PLAIN
from fairseq_kd.inference.opening import MAX_TOKENS, collate, length_sorted, open_data
from fairseq_kd.inference.without_tokens import WithoutTokens
from fairseq_kd.loss.signal import ROWS_AT_A_TIME
from fairseq_kd.sequence.backend import FairseqBackend
from fairseq_kd.sequence.decode_options import Hypothesis
from fairseq_kd.sequence.strategies import STRATEGIES
from fairseq_kd.teacher.ensemble import Teachers, open_teachers


class SecondModel:
    """A checkpoint, or an ensemble, in the teacher's direction (forward) or in the other one (reverse).

    It gets sentences without language tokens; a model whose task adds them reads the sentences with them.
    """

    def __init__(self, teachers: Teachers, reverse: bool, device: torch.device):
        task = teachers.task
        members = [
            member if member.layout == PLAIN else WithoutTokens(member, task.source_dictionary, task.target_dictionary)
            for member in teachers.members
        ]
        self.teachers, self.reverse, self.device = replace(teachers, members=members), reverse, device

    @classmethod
    def open(
        cls, option: str, paths: str, data_bin, first: Teachers, device, *, back=False, trust=None, **how
    ) -> "SecondModel":
        """Load the checkpoints of an option. first: the teacher. how: data and dtype of `open_teachers`.

        back: whether a model of both directions takes the reverse one. trust: a checkpoint that may hold code, of this
        option or not.
        Raises KDError as `open_teachers` does, and for a model of other languages.
        """
        languages = (first.task.cfg.source_lang, first.task.cfg.target_lang)
        listed = paths.split(os.pathsep)
        how |= {"languages": languages[::-1] if back else languages, "trust": trust if trust in listed else None}

        def open_task(model):
            theirs = model.languages
            if theirs not in (languages, languages[::-1]):
                raise KDError(
                    f"{option} {paths} translates {'-'.join(theirs)}, the teacher {'-'.join(languages)}: give a model "
                    "of the same languages, in either direction"
                )
            return open_data(data_bin, theirs, first.subset, like=model)

        found = open_teachers(data_bin, paths, first.subset, inputs=first.inputs, open_task=open_task, **how)
        return cls(found, found.members[0].languages != languages, device)

    def describe(self) -> dict:
        """For the manifest."""
        return {"model": self.teachers.fingerprint(), "direction": "reverse" if self.reverse else "forward"}

    def lprobs(self, sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> list[float | None]:
        """The log-probability per token, with EOS, of each target given its source; of a reverse model the other way.

        sources, targets: token ids without EOS in the teacher's direction. None where the hypothesis is empty, and
        where a side is longer than the model's positions. Raises KDError for probabilities that are not finite.
        """
        given, scored = (targets, sources) if self.reverse else (sources, targets)
        dataset = self._dataset(given, scored)
        limits = self._limits
        fits = (dataset.src_sizes <= limits[0]) & (dataset.tgt_sizes <= limits[1])
        numbers = np.flatnonzero(fits & np.array([len(tokens) > 0 for tokens in targets], bool))
        found: list[float | None] = [None] * len(targets)
        for batch in length_sorted(numbers, np.maximum(dataset.src_sizes, dataset.tgt_sizes), MAX_TOKENS):
            sample = collate(dataset, batch, self.device)
            for number, value in zip(sample["id"].tolist(), self._means(sample).tolist(), strict=True):
                found[number] = value
        return found

    def _means(self, sample) -> torch.Tensor:
        """(B,): the mean log-probability of the target tokens of each sentence of a batch."""
        keep = sample["target"].ne(self.teachers.task.target_dictionary.pad())  # (B, T)
        gold, signal = sample["target"][keep], self.teachers.signal(sample, keep)
        parts = []
        for start in range(0, len(gold), ROWS_AT_A_TIME):
            end = min(start + ROWS_AT_A_TIME, len(gold))
            parts.append(signal.rows(start, end).float().gather(-1, gold[start:end, None]).squeeze(-1))
        lprobs = torch.zeros(keep.shape, dtype=torch.float64, device=keep.device)
        lprobs[keep] = torch.cat(parts).double()
        means = lprobs.sum(dim=1) / keep.sum(dim=1)
        if not means.isfinite().all():
            raise KDError(
                f"{':'.join(self.teachers.paths)} gives probabilities that are not finite: its training diverged; use "
                "another one"
            )
        return means.cpu()

    def translate(self, sentences: Sequence[np.ndarray]) -> list[Hypothesis | None]:
        """The greedy translation of token ids without EOS; None where they are longer than the model's positions."""
        task = self.teachers.task
        tokens = [_with_eos(row, task.source_dictionary.eos()) for row in sentences]
        sizes = np.array([len(row) for row in tokens], np.int64)
        dataset = sources_for_search(task, tokens, sizes)
        numbers = np.flatnonzero(sizes <= self._limits[0])
        greedy = STRATEGIES["greedy"]
        settings = {name: option.default for name, option in greedy.options.items()}
        models = self.teachers.models(self.device)
        arguments = greedy.fairseq_arguments(settings), MAX_TOKENS, self.device, language_ids(task)
        found = FairseqBackend(models, task, dataset, *arguments).translate(numbers, lambda count: None)
        return [found[number][0] if number in found else None for number in range(len(sentences))]

    @property
    def _limits(self) -> tuple[int, int]:
        """Longest source and target, in tokens with EOS, that all members accept beside their language tokens."""
        sources, targets = zip(*(member.max_positions for member in self.teachers.members), strict=True)
        return min(sources), min(targets)

    def _dataset(self, sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]):
        """fairseq's data set of pairs of token ids, which get EOS."""
        from fairseq.data import LanguagePairDataset

        task = self.teachers.task
        eos = task.source_dictionary.eos()
        sides = [[_with_eos(row, eos) for row in side] for side in (sources, targets)]
        sizes = [np.array([len(row) for row in side], np.int64) for side in sides]
        return LanguagePairDataset(
            sides[0], sizes[0], task.source_dictionary, sides[1], sizes[1], task.target_dictionary, shuffle=False
        )


def _with_eos(tokens: np.ndarray, eos: int) -> torch.Tensor:
    return torch.from_numpy(np.append(tokens, eos).astype(np.int64))
