"""The options of `fairseq-kd decode`, checked: an option without an effect is refused. What a decoder answers."""

from dataclasses import dataclass, field, fields

import numpy as np

from fairseq_kd.core.errors import KDError
from fairseq_kd.scoring.tokenizers import TOKENIZERS
from fairseq_kd.sequence.selection_options import (
    MBR_WEIGHTS,
    METRICS,
    SELECTIONS,
    FilterOptions,
    SelectionOptions,
    check_filters,
    check_selection,
    filters_of,
)
from fairseq_kd.sequence.strategies import STRATEGIES, Strategy, all_options, as_option, strategies_with


@dataclass(frozen=True)
class Hypothesis:
    """Token ids (length,) without EOS, and the log-probability per token (nats; beam search: divided by --lenpen).

    scored: the number of tokens that the score is about, EOS included, where they are not `tokens`: a converted teacher
    has tokens of its own. None: they are. at_limit: whether it has the greatest length of the search, so that it may
    lack its end.
    """

    tokens: np.ndarray
    score: float
    scored: int | None = None
    at_limit: bool = False

    @property
    def scored_tokens(self) -> int:
        """The number of tokens that the score is about, EOS included."""
        return len(self.tokens) + 1 if self.scored is None else self.scored


BACKENDS = ("auto", "fairseq", "ctranslate2")
DTYPES = ("float32", "bfloat16", "float16", "int8")
FALLBACKS = ("reference", "drop", "error")


@dataclass(frozen=True, init=False)
class DecodeOptions(SelectionOptions, FilterOptions):
    """How training data are made.

    DecodeOptions(strategy="beam", beam=5, ...) takes the fields below and the options of the strategy by name, None
    for an option that was not given. given: the options of the strategy that were given; `settings` has all of them.
    """

    subset: str = "train"
    strategy: str = "beam"
    given: dict = field(default_factory=dict)
    fallback: str = "reference"  # where the teacher has no answer: the gold target, or no pair (counted), or an error
    backend: str = "auto"
    dtype: str = "float32"
    max_tokens: int | None = None
    cpu: bool = False

    def __init__(self, **values):
        """Raises KDError for an unknown name, a value out of range, and an option that would have no effect."""
        given = {name: values.pop(name) for name in all_options() if name in values}
        values["given"] = {name: value for name, value in given.items() if value is not None}
        for name in fields(self):
            object.__setattr__(self, name.name, values.pop(name.name, name.default))
        if values:
            raise TypeError(f"DecodeOptions has no {', '.join(values)}")
        _check_names(self)
        _check_strategy(self)
        check_selection(self)
        check_filters(self)
        _check_ranges(self)

    @staticmethod
    def names() -> list[str]:
        """The names of all values that the constructor takes, the options of every strategy included."""
        return [found.name for found in fields(DecodeOptions) if found.name != "given"] + list(all_options())

    @property
    def how(self) -> Strategy:
        """The strategy that `strategy` names."""
        return STRATEGIES[self.strategy]

    def settings(self) -> dict:
        """Name -> value of every option of the strategy."""
        return {name: self.given.get(name, option.default) for name, option in self.how.options.items()}

    @property
    def filters(self) -> dict:
        """The filters that are on, by option name."""
        return filters_of(self)


def _check_names(options: DecodeOptions) -> None:
    known = {
        "strategy": tuple(STRATEGIES),
        "backend": BACKENDS,
        "dtype": DTYPES,
        "select": SELECTIONS,
        "metric": METRICS,
        "fallback": FALLBACKS,
        "tokenize": (None, *TOKENIZERS),
        "mbr_weights": (None, *MBR_WEIGHTS),
    }
    for name, names in known.items():
        if getattr(options, name) not in names:
            listed = ", ".join(n for n in names if n)
            raise KDError(f"{as_option(name)} {getattr(options, name)}: must be one of {listed}")


def _check_strategy(options: DecodeOptions) -> None:
    for name, value in options.given.items():
        if name not in options.how.options:
            raise KDError(
                f"{as_option(name)} {value} has no effect with --strategy {options.strategy}; leave it out, or give "
                f"--strategy {' or '.join(strategies_with(name))}"
            )
    settings = options.settings()
    for name, option in options.how.options.items():
        option.check(name, settings[name])
    options.how.check(settings)


def _check_ranges(options: DecodeOptions) -> None:
    if options.dtype == "int8" and options.backend == "fairseq":
        raise KDError("--dtype int8 is for --backend ctranslate2: fairseq's models have no 8-bit form")
    if options.max_tokens is not None and options.max_tokens < 1:
        raise KDError(f"--max-tokens {options.max_tokens}: must be at least 1")


def check_without_gold(options: DecodeOptions) -> None:
    """Raises KDError for options that monolingual text cannot have: they need gold targets, or another subset."""
    if options.how.reads_gold:
        others = " or ".join(name for name, strategy in STRATEGIES.items() if not strategy.reads_gold)
        raise KDError(
            f"--strategy {options.strategy} reads gold targets, and --source-text has none: give --strategy {others}"
        )
    if options.select == "closest":
        raise KDError("--select closest compares with gold targets, and --source-text has none: leave it out")
    if options.fallback == "reference":
        raise KDError(
            "--fallback reference writes gold targets, and --source-text has none: give --fallback drop or error"
        )
    if options.subset != "train":
        raise KDError(f"--subset {options.subset} has no effect with --source-text, which becomes the training set")
