"""The program that runs the beam search of an evaluation: fairseq, or CTranslate2 with the converted model.

Both run the same search in float32. What reads probabilities under gold prefixes (calibration, overfitting, top-1
agreement) runs on the models of fairseq with either backend.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.system import System, TranslateOptions, search_backend
from fairseq_kd.export.runtime import check_installed
from fairseq_kd.inference.opening import length_sorted
from fairseq_kd.sequence.backend import Backend
from fairseq_kd.sequence.ctranslate2_backend import MAX_TOKENS, CTranslate2Backend, named_translator, result_of
from fairseq_kd.sequence.decode_options import Hypothesis
from fairseq_kd.sequence.strategies import STRATEGIES
from fairseq_kd.teacher.ensemble import Teachers

FAIRSEQ, CTRANSLATE2 = BACKENDS = ("fairseq", "ctranslate2")
LARGEST = math.log1p(-(2.0**-24))  # log-probability of the largest float32 below 1
DTYPE = "float32"  # of CTranslate2; quantised models are for `export`


@dataclass(frozen=True)
class BackendOptions:
    """name: one of BACKENDS. workers: threads of CTranslate2 on a CPU; None: as many as torch uses.

    Raises KDError on construction for other values, and when CTranslate2 is named and is not installed.
    """

    name: str = FAIRSEQ
    workers: int | None = None

    def __post_init__(self):
        if self.name not in BACKENDS:
            raise KDError(f"--backend {self.name}: must be one of {', '.join(BACKENDS)}")
        if self.workers is not None and self.workers < 1:
            raise KDError(f"--workers {self.workers}: must be at least 1")
        if self.name == CTRANSLATE2:
            check_installed()
        elif self.workers is not None:
            raise KDError("--workers is for --backend ctranslate2; fairseq has as many threads as OMP_NUM_THREADS says")

    def check_fp16(self, fp16: bool) -> None:
        """Raises KDError for half precision with CTranslate2."""
        if fp16 and self.name == CTRANSLATE2:
            raise KDError(f"--fp16 has no effect with --backend ctranslate2, which computes in {DTYPE}: leave one out")

    def check_model(self, options) -> None:
        """Raises KDError when the options of a model show that the backend cannot run it.

        options: of fairseq-train, parsed. This package must be registered with fairseq.
        """
        if self.name == CTRANSLATE2:
            from fairseq_kd.export.specification import check_architecture

            check_architecture(options)

    def recorded(self, options: TranslateOptions) -> dict:
        """The entry `decoding` of a result. Results of fairseq do not name the backend."""
        if self.name == FAIRSEQ:
            return options.as_dict()
        return options.as_dict() | {"max_tokens": batch_tokens(options), "backend": self.name}

    @property
    def threads(self) -> int:
        """The number of threads that decode on a CPU."""
        return self.workers or torch.get_num_threads()

    def meter_device(self, options: TranslateOptions) -> torch.device:
        """The device whose memory is measured. What CTranslate2 allocates on a GPU is not known to torch."""
        return options.device() if self.name == FAIRSEQ else torch.device("cpu")

    def attach(self, system: System, subset: str, inputs: Inputs) -> System:
        """The system whose translations this backend makes. inputs: of the command, which hold its checkpoint.

        Raises KDError when CTranslate2 cannot run the model.
        """
        if self.name == FAIRSEQ:
            return system
        found = Teachers(
            system.frozen.members, [one.path for one in system.frozen.members], system.task, subset, inputs
        )
        return replace(system, search=self.search(found, system.options))

    def search(self, models: Teachers, options: TranslateOptions) -> Callable[[object], Backend]:
        """From a dataset of sources to the backend that translates it with these models.

        Raises KDError when CTranslate2 cannot run the models.
        """
        device = options.device()
        if self.name == FAIRSEQ:
            return lambda dataset: search_backend(models.models(device), models.task, dataset, options)
        translator = named_translator(models, STRATEGIES["beam"], DTYPE, device, self.threads)
        settings, max_tokens, limit = options.as_dict(), batch_tokens(options), models.max_positions[1]
        return lambda dataset: RankedAsByFairseq(translator, models.task, dataset, settings, max_tokens, limit)


class RankedAsByFairseq(CTranslate2Backend):
    """CTranslate2's beam search, whose answer is the hypothesis that fairseq ranks first.

    No hypothesis begins with the end of the sentence (EOS). CTranslate2 takes EOS out before it normalises the first
    step, fairseq afterwards. So the log-probability of every hypothesis of a sentence is larger by -log(1 - p(EOS)) in
    CTranslate2, which makes shorter hypotheses better after the division by length^lenpen. This class subtracts it.
    """

    def __init__(self, translator, task, dataset, settings: dict, max_tokens: int, max_target_positions: int):
        """settings: beam, lenpen, max_len_a and max_len_b. See `CTranslate2Backend`."""
        settings = settings | {"nbest": settings["beam"]}
        super().__init__(translator, task, dataset, settings, max_tokens, max_target_positions)

    def translate_filled(self, sentences: np.ndarray, advance) -> dict[int, list[Hypothesis]]:
        """See `Backend`. Each sentence has one hypothesis; its score is CTranslate2's."""
        found = super().translate_filled(sentences, advance)
        close = [n for n, answers in found.items() if len({len(one.tokens) for one in answers}) > 1]
        excess = self._excess(np.array(close, dtype=np.int64))
        return {number: [self._best(answers, excess.get(number, 0.0))] for number, answers in found.items()}

    def _best(self, answers: list[Hypothesis], excess: float) -> Hypothesis:
        lenpen = self.settings["lenpen"]
        return max(answers, key=lambda one: one.score - excess / (len(one.tokens) + 1) ** lenpen)

    def _excess(self, sentences: np.ndarray) -> dict[int, float]:
        """Sentence number -> -log(1 - p(EOS)) at the first step."""
        pending = []
        for numbers in length_sorted(sentences, self._lengths, self.max_tokens):
            sources = [self._source(int(number)) for number in numbers]
            empty = [[] for _ in sources]  # the score of an empty target is log p(EOS)
            answers = self.translator.score_batch(sources, empty, max_input_length=0, asynchronous=True)
            pending += zip(numbers.tolist(), answers, strict=True)
        return {number: excess(result_of(answer, self.max_tokens).log_probs[0]) for number, answer in pending}


def excess(lprob: float) -> float:
    """-log(1 - p), in nats, of p = exp(lprob), a probability in float32. The largest p below 1 stands for p = 1."""
    return -math.log(-math.expm1(min(lprob, LARGEST)))


def batch_tokens(options: TranslateOptions) -> int:
    """The source tokens per batch of CTranslate2: its own default where `options` has the default of fairseq."""
    given = options.max_tokens != TranslateOptions.max_tokens
    return options.max_tokens if given else MAX_TOKENS[options.device().type]
