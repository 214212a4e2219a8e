"""Decoding by fairseq's own search: any architecture, ensembles, sampling."""

from argparse import Namespace
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from fairseq_kd.sequence.hypothesis import Hypothesis
from fairseq_kd.sequence.options import DecodeOptions
from fairseq_kd.sequence.teachers import Teachers
from fairseq_kd.teacher.batches import collate, length_sorted


class Backend(Protocol):
    """Translates chosen sentences of a subset."""

    name: str
    max_tokens: int  # of a batch, with padding

    def translate(self, sentences: np.ndarray, advance: Callable[[int], None]) -> dict[int, list[Hypothesis]]:
        """Sentence number -> hypotheses, best first; advance(n) after every n sentences."""


class FairseqBackend:
    """Beam search, greedy search and sampling by `task.build_generator`.

    Samples are drawn from a generator that is seeded for each batch, so they do not depend on what ran before.
    """

    name = "fairseq"
    MAX_TOKENS = 12000

    def __init__(self, teachers: Teachers, options: DecodeOptions, device: torch.device):
        self.teachers, self.options, self.device = teachers, options, device
        self.max_tokens = options.max_tokens or self.MAX_TOKENS
        self.models = teachers.models(device)
        self.generator = teachers.task.build_generator(self.models, search_arguments(options))
        self._lengths = np.asarray(teachers.dataset.src_sizes)

    def translate(self, sentences: np.ndarray, advance) -> dict[int, list[Hypothesis]]:
        """See `Backend`."""
        found = {}
        for numbers in length_sorted(sentences, self._lengths, self.max_tokens):
            if self.options.strategy == "sample":
                seed = self.options.settings()["seed"]
                torch.manual_seed(int(np.random.SeedSequence([seed, int(numbers[0])]).generate_state(1)[0]))
            sample = collate(self.teachers.dataset, numbers, self.device)
            answers = self.teachers.task.inference_step(self.generator, self.models, sample)
            for number, answer in zip(sample["id"].tolist(), answers, strict=True):
                found[number] = [self._hypothesis(item) for item in answer]
            advance(len(numbers))
        return found

    def _hypothesis(self, item: dict) -> Hypothesis:
        tokens = item["tokens"].int().cpu().numpy()
        assert tokens[-1] == self.teachers.task.target_dictionary.eos(), "a hypothesis ends with EOS"
        return Hypothesis(tokens[:-1], float(item["score"]))


def search_arguments(options: DecodeOptions) -> Namespace:
    """What fairseq's `build_generator` reads."""
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
    )
