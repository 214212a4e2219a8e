"""The class of all divergences, and their registry.

A divergence is one class with the decorator `register`, in one of the modules of this package. The class states all
that the rest of the program needs: the options of kd_word and their help, the checks of the options, the factors of a
study and the parameters of a search are derived from the registry. The only method that a class must have is `between`:

    @register
    class SquaredError(Divergence):
        name = "squared_error"
        formula = "Σ (p - q)²"

        def between(self, student, teacher):
            return (student.exp() - teacher.exp()).square().sum(dim=-1)

tests/unit/test_divergence.py takes every registered divergence through the same tests. It asks for values worked by
hand.

Conventions. p is the teacher's distribution and q is the student's, over the same outcomes: the whole vocabulary, or
the k entries of a truncated teacher and one bucket for all other entries. Each side already has its own temperature. A
divergence gives one value per token, in nats where it has a unit. No gradient reaches the teacher.

A log-probability of -inf is a probability of 0. The limits hold: 0 ln 0 = 0 and 0 ln (0 / 0) = 0. A probability that
the floating-point type cannot tell from 0 is treated in the same way. An outcome that the student excludes gives no
gradient, because the derivative of the loss by it has the limit 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.loss.rows import bucket
from fairseq_kd.loss.signal import TopKSignal, WholeSignal


@dataclass(frozen=True)
class Parameter:
    """A number that a divergence takes, strictly between `low` and `high`. It is an option of kd_word.

    name: as in the configuration of the criterion, such as "js_beta". help: of the option, without the range.
    at_the_ends: why `low` and `high` themselves are refused.
    """

    name: str
    default: float
    low: float
    high: float
    help: str
    at_the_ends: str

    @property
    def option(self) -> str:
        """The name of the option, without the two dashes."""
        return self.name.replace("_", "-")

    def check(self, value: float) -> None:
        """Raises KDError for a value out of range."""
        if not self.low < value < self.high:
            raise KDError(
                f"--{self.option} {value}: must be above {self.low:g} and below {self.high:g} ({self.at_the_ends})"
            )


class Divergence:
    """One divergence with the values of its parameters. A subclass overrides what differs from the values below."""

    name: ClassVar[str]  # for --kd-divergence
    formula: ClassVar[str]  # one line for --help; p: teacher, q: student
    source: ClassVar[str] = ""  # the paper
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    # Whether the bucket of a truncated teacher is an outcome like the others. If not, the bucket is left out.
    sees_tail: ClassVar[bool] = True
    # Whether it compares entry by entry outside of a truncated teacher's k entries, if the signal has tail shapes.
    sees_tail_shapes: ClassVar[bool] = False
    # Whether it needs all of the student's distribution, even if the teacher is truncated.
    needs_vocabulary: ClassVar[bool] = False
    # Whether the temperatures change it. If not, the options that set them are refused.
    takes_temperatures: ClassVar[bool] = True
    # n, if its gradient falls as 1 / T^n when both temperatures are T and T grows. --kd-scale auto multiplies by T^n.
    temperature_power: ClassVar[int] = 2
    # False: it has kinks, where rounding can choose another one-sided derivative. Tests of rounding allow for it.
    is_smooth: ClassVar[bool] = True
    # The fast paths of the fused loss. None: autograd, on chunks of rows.
    # TruncatedKL, or a class like it, for a truncated teacher.
    fused_top_k: ClassVar[type | None] = None
    # (self, chunk, objective, signal, start, end) -> Values, for a whole distribution.
    fused_dense: ClassVar[Callable | None] = None

    def __init__(self, **values: float):
        """values: of the parameters, by name; the others have their defaults. Raises KDError for one out of range."""
        for parameter in self.parameters:
            value = values.pop(parameter.name, parameter.default)
            parameter.check(value)
            setattr(self, parameter.name, value)
        assert not values, f"{self.name} has no parameters {', '.join(values)}"

    @classmethod
    def from_options(cls, options) -> "Divergence":
        """With the values that the attributes of `options` (of a criterion) give. Raises KDError as `__init__`."""
        return cls(**{parameter.name: getattr(options, parameter.name) for parameter in cls.parameters})

    def between(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The value of each token, (N,), from normalised log-probabilities (N, K) of the same K outcomes."""
        raise NotImplementedError

    def value(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """`between`, without a gradient for the teacher. Raises ValueError when the shapes differ."""
        if student.shape != teacher.shape:
            raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ")
        return self.between(student, teacher.detach())

    def of_buckets(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The value of each token, (N,), from k entries and the bucket of all others as the last column, (N, k + 1)."""
        end = None if self.sees_tail else -1
        return self.value(student[:, :end], teacher[:, :end])

    def of_signal(self, student: torch.Tensor, signal: WholeSignal | TopKSignal) -> torch.Tensor:
        """The value of each token, (N,), for the student's log-probabilities (N, V) at its temperature."""
        if isinstance(signal, WholeSignal) or (signal.shapes is not None and self.sees_tail_shapes):
            return self.value(student, signal.rows())
        return self.of_buckets(bucket(student, signal.ids), signal.buckets())


DIVERGENCES: dict[str, type[Divergence]] = {}


def register(divergence: type[Divergence]) -> type[Divergence]:
    """Class decorator: add a divergence to DIVERGENCES under its name."""
    assert divergence.name not in DIVERGENCES, f"two divergences are named {divergence.name}"
    DIVERGENCES[divergence.name] = divergence
    return divergence
