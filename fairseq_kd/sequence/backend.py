"""Decoding by the models of fairseq: any architecture, ensembles.

Beam search, greedy search and sampling use fairseq's own search. Teacher forcing is one forward pass per batch, the
same that `fairseq-kd cache` makes: at each position it takes the teacher's most probable token, given the gold tokens
before it.
"""

from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable

import numpy as np
import torch

from fairseq_kd.inference.language_tokens import build_search, language_ids, not_in_text
from fairseq_kd.inference.opening import collate, length_sorted
from fairseq_kd.loss.signal import ROWS_AT_A_TIME
from fairseq_kd.sequence.decode_options import Hypothesis
from fairseq_kd.teacher.ensemble import Teachers

MAX_TOKENS = {"cpu": 4000, "cuda": 12000}  # source tokens per batch, padding included
FORCING_MAX_TOKENS = 4000  # tokens of the longer side per batch, padding included


class Backend(ABC):
    """Translates chosen sentences of a subset. Every backend gives an empty source the empty translation.

    A model would invent a translation: it has seen no empty source, because cleaning drops them from training sets.
    """

    name: str
    max_tokens: int  # per batch, padding included

    def __init__(self, dataset):
        self.dataset = dataset
        self._empty_sources = empty_sources(dataset)

    def translate(self, sentences: np.ndarray, advance: Callable[[int], None]) -> dict[int, list[Hypothesis]]:
        """Sentence number -> hypotheses, best first; advance(n) is called after every n sentences.

        An empty source has one hypothesis, which has no tokens and the score 0 (probability 1).
        """
        empty = self._empty_sources[sentences]
        advance(int(empty.sum()))
        found = {int(number): [Hypothesis(np.zeros(0, np.int64), 0.0)] for number in sentences[empty]}
        return found | self.translate_filled(sentences[~empty], advance)

    @abstractmethod
    def translate_filled(self, sentences: np.ndarray, advance: Callable[[int], None]) -> dict[int, list[Hypothesis]]:
        """`translate` for sentences whose sources are not empty."""


def empty_sources(dataset) -> np.ndarray:
    """bool (sentences,): whether the source is EOS alone."""
    return np.asarray(dataset.src_sizes) <= 1 + getattr(dataset, "added", 0)  # added: language tokens


class FairseqBackend(Backend):
    """Beam search, greedy search and sampling by `task.build_generator`.

    The generator of random numbers is seeded for each batch, so samples do not depend on what ran before.
    """

    name = "fairseq"

    def __init__(
        self,
        models: list,
        task,
        dataset,
        search: Namespace,
        max_tokens: int,
        device: torch.device,
        left_out=frozenset(),
    ):
        """models: the members of the ensemble, on `device`, in eval mode. search: see `Search.fairseq_arguments`.

        left_out: ids that hypotheses must not hold, in addition to those that fairseq-generate leaves out.
        """
        super().__init__(dataset)
        self.models, self.task = models, task
        self.max_tokens, self.device, self.search = max_tokens, device, search
        self.generator = build_search(task, models, search)
        self._left_out = sorted(not_in_text(task, self.generator) | left_out)
        self._lengths = np.asarray(dataset.src_sizes)

    def translate_filled(self, sentences: np.ndarray, advance) -> dict[int, list[Hypothesis]]:
        """See `Backend`."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=self.search.sampling):  # each batch sets its seed
            return self._translate(sentences, advance)

    def _translate(self, sentences, advance) -> dict[int, list[Hypothesis]]:
        found = {}
        for numbers in length_sorted(sentences, self._lengths, self.max_tokens):
            if self.search.sampling:
                seeds = np.random.SeedSequence([self.search.seed, int(numbers[0])])
                torch.manual_seed(int(seeds.generate_state(1)[0]))
            sample = collate(self.dataset, numbers, self.device)
            answers = self.task.inference_step(self.generator, self.models, sample)
            longest = self._longest(sample["net_input"]["src_tokens"].size(1))
            for number, answer in zip(sample["id"].tolist(), answers, strict=True):
                found[number] = [self._hypothesis(item, longest) for item in answer[: self.search.nbest]]
            advance(len(numbers))
        return found

    def _longest(self, source: int) -> int:
        """The greatest number of tokens of a hypothesis without its end. source: of a source, padding included."""
        limit = int(self.search.max_len_a * source + self.search.max_len_b)
        return min(limit, *(model.max_decoder_positions() - 1 for model in self.models))

    def _hypothesis(self, item: dict, longest: int) -> Hypothesis:
        """The score is about all tokens of the search, also those that are no text."""
        tokens = item["tokens"].int().cpu().numpy()
        assert tokens[-1] == self.generator.eos, "a hypothesis ends with the end of the search"
        text = tokens[:-1][~np.isin(tokens[:-1], self._left_out)]
        scored = None if len(text) == len(tokens) - 1 else len(tokens)
        return Hypothesis(text, float(item["score"]), scored, len(tokens) > longest)


class ForcingBackend(Backend):
    """Teacher forcing: the hypothesis has the length of the gold target, and its last position is EOS.

    Where the teacher would end earlier, the hypothesis has the teacher's next best token; with `cut` it ends there.
    Padding is never a token of a hypothesis.
    """

    name = "fairseq"

    def __init__(self, teachers: Teachers, device: torch.device, *, cut: bool, max_tokens: int | None = None):
        """max_tokens: of the longer side per batch; None: FORCING_MAX_TOKENS."""
        super().__init__(teachers.dataset)
        self.teachers, self.device, self.cut = teachers, device, cut
        self.max_tokens = max_tokens or FORCING_MAX_TOKENS
        dataset = teachers.dataset
        self._lengths = np.maximum(dataset.src_sizes, dataset.tgt_sizes)
        self._languages = sorted(language_ids(teachers.task))

    def translate_filled(self, sentences: np.ndarray, advance) -> dict[int, list[Hypothesis]]:
        """See `Backend`. Each sentence has one hypothesis."""
        found = {}
        for numbers in length_sorted(sentences, self._lengths, self.max_tokens):
            found |= self._batch(collate(self.teachers.dataset, numbers, self.device))
            advance(len(numbers))
        return found

    def _batch(self, sample) -> dict[int, list[Hypothesis]]:
        dictionary = self.teachers.task.target_dictionary
        keep = sample["target"].ne(dictionary.pad())  # (B, T)
        for token in self._languages:  # the hypothesis has a token for each stored token of the gold target
            keep &= sample["target"].ne(token)
        lengths = keep.sum(dim=1).tolist()
        last = torch.cumsum(keep.sum(dim=1), dim=0) - 1  # (B,): the row of each sentence's EOS among the N
        tokens, scores = most_probable(
            self.teachers.signal(sample, keep),
            int(keep.sum()),
            last,
            dictionary.eos(),
            [dictionary.pad(), *self._languages],
            self.cut,
        )
        answers, start = {}, 0
        for number, length in zip(sample["id"].tolist(), lengths, strict=True):
            ids, values = tokens[start : start + length], scores[start : start + length]
            end = int(np.flatnonzero(ids == dictionary.eos())[0]) + 1  # EOS included; nothing is cut at the last one
            answers[number] = [Hypothesis(ids[: end - 1], float(values[:end].mean()))]
            start += length
        return answers


def most_probable(signal, count: int, last: torch.Tensor, eos: int, never: list[int], cut: bool):
    """The most probable tokens of a signal of N = count rows: numpy arrays (token ids (N,), log-probabilities (N,)).

    last (B,): the rows whose token is EOS, whichever token the teacher prefers. never: ids that are no answer. cut:
    whether EOS may be the answer in other rows.
    """
    ids, scores = [], []
    is_last = torch.zeros(count, dtype=torch.bool, device=last.device)
    is_last[last] = True
    for start in range(0, count, ROWS_AT_A_TIME):
        end = min(start + ROWS_AT_A_TIME, count)
        lprobs = signal.rows(start, end).clone()  # (n, V)
        allowed_eos = is_last[start:end]
        forced = lprobs[:, eos].clone()
        lprobs[:, never] = float("-inf")
        if not cut:
            lprobs[:, eos] = float("-inf")
        values, best = lprobs.max(dim=-1)
        ids.append(torch.where(allowed_eos, eos, best))
        scores.append(torch.where(allowed_eos, forced, values))
    return torch.cat(ids).cpu().numpy(), torch.cat(scores).float().cpu().numpy()
