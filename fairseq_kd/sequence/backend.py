"""Decoding by fairseq's own search: any architecture, ensembles, sampling."""

from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable

import numpy as np
import torch

from fairseq_kd.inference.opening import collate, length_sorted
from fairseq_kd.sequence.options import DecodeOptions, Hypothesis

MAX_TOKENS = {"cpu": 4000, "cuda": 12000}  # source tokens of a batch, with padding


class Backend(ABC):
    """Translates chosen sentences of a subset. The translation of an empty source is empty, by every backend.

    A model would invent one: it has not seen empty sources, since cleaning leaves them out of training sets.
    """

    name: str
    max_tokens: int  # of a batch, with padding

    def __init__(self, dataset):
        self.dataset = dataset
        self._empty_sources = empty_sources(dataset)

    def translate(self, sentences: np.ndarray, advance: Callable[[int], None]) -> dict[int, list[Hypothesis]]:
        """Sentence number -> hypotheses, best first; advance(n) after every n sentences.

        An empty source has one hypothesis, without tokens and of the score 0 (probability 1).
        """
        empty = self._empty_sources[sentences]
        advance(int(empty.sum()))
        found = {int(number): [Hypothesis(np.zeros(0, np.int64), 0.0)] for number in sentences[empty]}
        return found | self.translate_filled(sentences[~empty], advance)

    @abstractmethod
    def translate_filled(self, sentences: np.ndarray, advance: Callable[[int], None]) -> dict[int, list[Hypothesis]]:
        """The same of sentences of which none is empty."""


def empty_sources(dataset) -> np.ndarray:
    """bool (sentences,): whose source is EOS alone."""
    return np.asarray(dataset.src_sizes) <= 1


class FairseqBackend(Backend):
    """Beam search, greedy search and sampling by `task.build_generator`.

    Samples are drawn from a generator that is seeded for each batch, so they do not depend on what ran before.
    """

    name = "fairseq"

    def __init__(self, models: list, task, dataset, search: Namespace, max_tokens: int, device: torch.device):
        """models: on `device`, in eval mode, as many as the ensemble has. search: see `search_arguments`."""
        super().__init__(dataset)
        self.models, self.task = models, task
        self.max_tokens, self.device, self.search = max_tokens, device, search
        self.generator = task.build_generator(models, search)
        self._lengths = np.asarray(dataset.src_sizes)

    def translate_filled(self, sentences: np.ndarray, advance) -> dict[int, list[Hypothesis]]:
        """See `Backend`."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices, enabled=self.search.sampling):  # the seeds are those of the batches alone
            return self._translate(sentences, advance)

    def _translate(self, sentences, advance) -> dict[int, list[Hypothesis]]:
        found = {}
        for numbers in length_sorted(sentences, self._lengths, self.max_tokens):
            if self.search.sampling:
                seeds = np.random.SeedSequence([self.search.seed, int(numbers[0])])
                torch.manual_seed(int(seeds.generate_state(1)[0]))
            sample = collate(self.dataset, numbers, self.device)
            answers = self.task.inference_step(self.generator, self.models, sample)
            for number, answer in zip(sample["id"].tolist(), answers, strict=True):
                found[number] = [self._hypothesis(item) for item in answer]
            advance(len(numbers))
        return found

    def _hypothesis(self, item: dict) -> Hypothesis:
        tokens = item["tokens"].int().cpu().numpy()
        assert tokens[-1] == self.task.target_dictionary.eos(), "a hypothesis ends with EOS"
        return Hypothesis(tokens[:-1], float(item["score"]))


def search_arguments(options: DecodeOptions) -> Namespace:
    """What fairseq's `build_generator` reads, and the seed."""
    settings = options.settings()
    sampling = options.strategy == "sample"
    beam = settings["nbest"] if sampling else settings.get("beam", 1)
    return Namespace(
        beam=beam,
        lenpen=settings.get("lenpen", 1.0),
        max_len_a=settings["max_len_a"],
        max_len_b=settings["max_len_b"],
        sampling=sampling,
        sampling_topk=settings.get("sampling_topk") or -1,
        sampling_topp=settings.get("sampling_topp") or -1.0,
        temperature=settings.get("sampling_temperature", 1.0),
        seed=settings.get("seed"),
    )
