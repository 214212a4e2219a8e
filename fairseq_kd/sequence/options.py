"""The options of `fairseq-kd decode`, checked: what would have no effect is refused.

What a decoder answers.
"""

from dataclasses import dataclass

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.scoring.tokenizers import TOKENIZERS


@dataclass(frozen=True)
class Hypothesis:
    """Token ids (length,) without EOS, and the log-probability a token (nats; beam search: by --lenpen)."""

    tokens: np.ndarray
    score: float


STRATEGIES = ("beam", "greedy", "teacher-forcing", "sample")
BACKENDS = ("auto", "fairseq", "ctranslate2")
DTYPES = ("float32", "bfloat16", "float16", "int8")
SELECTIONS = ("best", "closest")
METRICS = ("bleu", "chrf")
SEARCH = ("max_len_a", "max_len_b")
SAMPLING = ("sampling_topk", "sampling_topp", "sampling_temperature", "seed")
# options that mean something for some strategies only, with the value that they then have if they are not given
DEFAULTS = {
    "beam": 5,
    "nbest": 1,
    "lenpen": 1.0,
    "max_len_a": 0.0,
    "max_len_b": 200,
    "sampling_topk": 0,
    "sampling_topp": 0.0,
    "sampling_temperature": 1.0,
    "seed": 1,
    "early_eos": "replace",
}
MEANINGFUL = {
    "beam": ("beam", "nbest", "lenpen", *SEARCH),
    "greedy": SEARCH,
    "sample": ("nbest", *SEARCH, *SAMPLING),
    "teacher-forcing": ("early_eos",),
}


@dataclass(frozen=True)
class DecodeOptions:
    """How training data are made. None: not given; `settings` fills in what the strategy needs."""

    subset: str = "train"
    strategy: str = "beam"
    beam: int | None = None
    nbest: int | None = None
    lenpen: float | None = None
    max_len_a: float | None = None
    max_len_b: int | None = None
    sampling_topk: int | None = None
    sampling_topp: float | None = None
    sampling_temperature: float | None = None
    seed: int | None = None
    early_eos: str | None = None  # "replace": the next best token instead; "cut": the sentence ends there
    select: str = "best"
    metric: str = "bleu"
    tokenize: str | None = None  # of metric bleu; None: that of the target language
    fallback: str = "reference"  # where the teacher has no answer: "reference" (counted) or "error"
    max_length_ratio: float | None = None
    drop_empty: bool = False
    drop_copies: bool = False
    backend: str = "auto"
    dtype: str = "float32"
    max_tokens: int | None = None
    cpu: bool = False

    def __post_init__(self):
        """Raises KDError for an unknown name, a value out of range, and an option that would do nothing."""
        _check_names(self)
        for name in DEFAULTS:
            if getattr(self, name) is not None and name not in MEANINGFUL[self.strategy]:
                option = f"--{name.replace('_', '-')}"
                raise KDError(f"{option} {getattr(self, name)} has no effect with --strategy {self.strategy}")
        _check_ranges(self.settings(), self)
        if self.select == "closest" and self.settings().get("nbest", 1) == 1:
            raise KDError("--select closest chooses among several hypotheses: give --nbest 2 or more")
        if self.select == "best" and self.metric != "bleu":
            raise KDError(f"--metric {self.metric} has no effect without --select closest")
        if self.tokenize is not None and (self.select == "best" or self.metric != "bleu"):
            raise KDError(f"--tokenize {self.tokenize} has no effect without --select closest and --metric bleu")
        if self.dtype == "int8" and self.backend == "fairseq":
            raise KDError("--dtype int8 is for --backend ctranslate2: fairseq's models have no 8-bit form")

    def settings(self) -> dict:
        """Name -> value of all that the strategy depends on."""
        given = {name: getattr(self, name) for name in MEANINGFUL[self.strategy]}
        return {name: DEFAULTS[name] if value is None else value for name, value in given.items()}

    @property
    def filters(self) -> dict:
        """The filters that are on, by option name."""
        names = ("max_length_ratio", "drop_empty", "drop_copies")
        return {name: value for name in names if (value := getattr(self, name))}


def _check_names(options: DecodeOptions) -> None:
    known = {
        "strategy": STRATEGIES,
        "backend": BACKENDS,
        "dtype": DTYPES,
        "select": SELECTIONS,
        "metric": METRICS,
        "fallback": ("reference", "error"),
        "early_eos": (None, "replace", "cut"),
        "tokenize": (None, *TOKENIZERS),
    }
    for name, names in known.items():
        if getattr(options, name) not in names:
            listed = ", ".join(n for n in names if n)
            raise KDError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be one of {listed}")


def _check_ranges(settings: dict, options: DecodeOptions) -> None:
    least = {"beam": 1, "nbest": 1, "max_len_b": 1, "max_len_a": 0, "sampling_topk": 0, "sampling_topp": 0, "seed": 0}
    for name, bound in least.items():
        if settings.get(name, bound) < bound:
            raise KDError(f"--{name.replace('_', '-')} {settings[name]}: must be at least {bound}")
    if settings.get("nbest", 1) > settings.get("beam", settings.get("nbest", 1)):
        raise KDError(
            f"--nbest {settings['nbest']} is more than --beam {settings['beam']}: beam search ends with as many "
            "hypotheses as it has beams"
        )
    if settings.get("sampling_topp", 0) > 1:
        raise KDError(f"--sampling-topp {settings['sampling_topp']}: must be a probability (0: all types)")
    if settings.get("sampling_topk") and settings.get("sampling_topp"):
        raise KDError("--sampling-topk and --sampling-topp: give one of them")
    if settings.get("sampling_temperature", 1) <= 0:
        raise KDError(f"--sampling-temperature {settings['sampling_temperature']}: must be above 0")
    if options.max_tokens is not None and options.max_tokens < 1:
        raise KDError(f"--max-tokens {options.max_tokens}: must be at least 1")
    if options.max_length_ratio is not None and options.max_length_ratio < 1:
        raise KDError(f"--max-length-ratio {options.max_length_ratio}: must be at least 1 (longer side / shorter side)")
