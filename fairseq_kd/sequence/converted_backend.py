"""Decoding by a converted teacher: its hypotheses become text, and the text becomes tokens of the data-bin.

Beam and greedy search share the batches among the threads of one translator. Samples are drawn by one thread: the
generator of random numbers of CTranslate2 belongs to a thread and is seeded when the thread begins, so each call opens
the model again, with a seed of its own. `work.DecodeWork` makes one call per block, so the samples of a block do not
depend on what ran before.
"""

from contextlib import contextmanager

import numpy as np
import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.export.runtime import CannotComputeError, load_translator
from fairseq_kd.inference.opening import length_sorted
from fairseq_kd.sequence.backend import Backend
from fairseq_kd.sequence.converted import ConvertedTeacher
from fairseq_kd.sequence.converted_options import SAMPLED
from fairseq_kd.sequence.ctranslate2_backend import MAX_TOKENS, result_of
from fairseq_kd.sequence.decode_options import DecodeOptions, Hypothesis

EVERYTHING = 0  # sampling_topk of CTranslate2: draw from the whole distribution


class ConvertedBackend(Backend):
    """Beam search, greedy search and sampling by a `ConvertedTeacher`."""

    name = "ctranslate2"

    def __init__(self, teacher: ConvertedTeacher, options: DecodeOptions, device: torch.device, workers=None):
        """workers: see `load_translator`."""
        self.dataset = None  # opened by `translate`: a finished data-bin has none
        self.teacher, self.options, self.device, self.workers = teacher, options, device, workers
        self.max_tokens = options.max_tokens or MAX_TOKENS[device.type]
        self._translator = None

    def translate(self, sentences: np.ndarray, advance) -> dict[int, list[Hypothesis]]:
        """See `Backend`. A source is empty if it has no piece."""
        if self.dataset is None:
            super().__init__(self.teacher.tokens)
        return super().translate(sentences, advance)

    def translate_filled(self, sentences: np.ndarray, advance) -> dict[int, list[Hypothesis]]:
        """See `Backend`."""
        found = {}
        if len(sentences) == 0:
            return found
        with self._open(int(sentences[0])) as translator:
            pending = [
                (numbers, self._start(translator, numbers))
                for numbers in length_sorted(sentences, self.teacher.source_sizes, self.max_tokens)
            ]
            for numbers, answers in pending:
                longest = self._longest(numbers)
                for number, answer in zip(numbers.tolist(), answers, strict=True):
                    found[number] = self._hypotheses(result_of(answer, self.max_tokens), longest)
                advance(len(numbers))
        return found

    @contextmanager
    def _open(self, first: int):
        """The translator; for samples a new one, whose seed comes from --seed and the first sentence."""
        if self.options.strategy != SAMPLED:
            self._translator = self._translator or self._load(self.workers)
            yield self._translator
            return
        import ctranslate2

        seeds = np.random.SeedSequence([self.options.settings()["seed"], first])
        ctranslate2.set_random_seed(int(seeds.generate_state(1)[0]) >> 1)
        yield self._load(1)

    def _load(self, workers):
        folder = self.teacher.folder.path
        try:
            return load_translator(folder, self.device, self.options.dtype, workers)
        except CannotComputeError:
            raise
        except (RuntimeError, ValueError) as error:
            raise KDError(
                f"CTranslate2 cannot load --teacher-folder {folder} ({error}): convert the model again"
            ) from error

    def _start(self, translator, numbers: np.ndarray) -> list:
        filled = self.teacher.filled
        return translator.translate_batch(
            [self._source(int(number)) for number in numbers],
            target_prefix=[list(filled.target_prefix)] * len(numbers) if filled.target_prefix else None,
            **arguments_of(self.options),
            max_decoding_length=self._longest(numbers),
            max_input_length=0,
            disable_unk=True,
            return_scores=True,
            asynchronous=True,
        )

    def _longest(self, numbers: np.ndarray) -> int:
        """The largest number of tokens of a hypothesis in a batch, with the prefix."""
        settings, longest = self.options.settings(), int(self.teacher.source_sizes[numbers[0]])
        limit = int(settings["max_len_a"] * longest + settings["max_len_b"])
        return min(limit + len(self.teacher.filled.target_prefix), self.teacher.max_positions[1] - 1)

    def _source(self, number: int) -> list[str]:
        filled, vocabulary = self.teacher.filled, self.teacher.folder.source
        pieces = [vocabulary[token] for token in self.dataset.src[number][:-1].tolist()]
        return [*filled.source_prefix, *pieces, *filled.source_suffix]

    def _hypotheses(self, result, longest: int) -> list[Hypothesis]:
        """CTranslate2 divides scores by the number of tokens with the prefix, and with EOS unless it stops before."""
        pairs = zip(result.hypotheses, result.scores, strict=True)
        return [
            Hypothesis(self._ids(pieces), float(score), len(pieces) + (len(pieces) < longest), len(pieces) >= longest)
            for pieces, score in pairs
        ]

    def _ids(self, pieces: list[str]) -> np.ndarray:
        teacher = self.teacher
        prefix = list(teacher.filled.target_prefix)
        pieces = pieces[len(prefix) :] if pieces[: len(prefix)] == prefix else pieces
        text = teacher.tokeniser.decode([piece for piece in pieces if piece not in teacher.control_tokens])
        return teacher.target_text.encode(text)


def arguments_of(options: DecodeOptions) -> dict:
    """The arguments of `Translator.translate_batch` for a strategy."""
    settings = options.settings()
    if options.strategy != SAMPLED:
        return options.how.ctranslate2_arguments(settings)
    return {
        "beam_size": 1,
        "num_hypotheses": settings["nbest"],
        "sampling_topk": settings["sampling_topk"] or EVERYTHING,
        "sampling_topp": settings["sampling_topp"] or 1.0,
        "sampling_temperature": settings["sampling_temperature"],
    }
