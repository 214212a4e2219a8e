"""The weights of the teachers of a mixture, as logarithms: the same for all tokens, (K,), or one row per token, (N, K).

The formulas are ours. arXiv 2402.14922 weights several pre-trained models equally or adaptively, but we could not read
its exact formula.
"""

import math
from dataclasses import dataclass

import torch

from fairseq_kd.core.errors import KDError

EQUAL, ADAPTIVE, NLL = "equal", "adaptive", "nll"
TOKEN, SENTENCE = "token", "sentence"
LOGGED = "teacher_weight_"  # and the number of the teacher: the name of its mean weight in the log


def equal(count: int) -> torch.Tensor:
    """ln 1/K for each of `count` teachers, (K,)."""
    return torch.full((count,), -math.log(count))


def constant(numbers) -> torch.Tensor:
    """ln (w_k / Σ w), (K,), of K numbers that are 0 or larger and not all 0."""
    numbers = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
    return (numbers / numbers.sum()).log().float()


def by_nll(nll, temperature: float = 1.0) -> torch.Tensor:
    """ln softmax_k(-nll_k / temperature), (K,), of the validation nll of each teacher, in nats per token."""
    nll = torch.tensor([float(value) for value in nll], dtype=torch.float64)
    return torch.log_softmax(-nll / temperature, dim=0).float()


def adaptive(gold: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """ln softmax_k(ln p_k(gold) / temperature), (N, K), from ln p_k(gold), (N, K).

    The weights of a token that all teachers exclude are equal. For weights per sentence, call with `per_sentence`.
    """
    excluded = (gold == -math.inf).all(dim=1, keepdim=True)
    return torch.log_softmax(gold.masked_fill(excluded, 0) / temperature, dim=1)


def one_hot(values: torch.Tensor) -> torch.Tensor:
    """Weight 1 for the largest of the K values of each token, (N, K), and 0 for the others; of equals, the first.

    DP-KD: values are ln p_k(gold) (supervised) or each one's largest ln p_k (unsupervised).
    """
    chosen = torch.full_like(values, -math.inf)
    return chosen.scatter_(1, values.argmax(dim=1, keepdim=True), 0)


def per_sentence(values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """The mean of the values (N, K) over the tokens of each sentence, at each of its tokens, (N, K).

    keep (B, T): where the N tokens are. The order of the additions is fixed, so that a result can be repeated.
    """
    padded = values.new_zeros(*keep.shape, values.size(1))  # (B, T, K)
    padded[keep] = values
    means = padded.sum(dim=1) / keep.sum(dim=1).clamp(min=1).unsqueeze(1)  # (B, K)
    return means.unsqueeze(1).expand_as(padded)[keep]


@dataclass(frozen=True)
class Weighting:
    """The values of --teacher-weights, --teacher-weight-temperature and --teacher-weights-per, for K teachers.

    kind: EQUAL, ADAPTIVE, NLL or "numbers"; numbers: K numbers with the last of these.
    """

    kind: str = EQUAL
    numbers: tuple[float, ...] = ()
    temperature: float = 1.0
    per: str = TOKEN

    @property
    def needs_gold(self) -> bool:
        """Whether the weights depend on the probabilities of the gold tokens."""
        return self.kind == ADAPTIVE

    def logged_names(self, count: int) -> tuple[str, ...]:
        """The names in the log of the mean weights of `count` teachers; none for weights that do not change."""
        return tuple(f"{LOGGED}{number}" for number in range(1, count + 1)) if self.needs_gold else ()

    def fixed(self, count: int, nll=None) -> torch.Tensor:
        """The weights that are the same for all tokens, (K,). nll: of each teacher, for NLL only."""
        if self.kind == NLL:
            return by_nll(nll, self.temperature)
        return equal(count) if self.kind == EQUAL else constant(self.numbers)

    def of_tokens(self, gold: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """The weights of each token, (N, K), from ln p_k(gold), (N, K), at the N places of keep (B, T)."""
        return adaptive(per_sentence(gold, keep) if self.per == SENTENCE else gold, self.temperature)


def read_weighting(text: str, count: int, temperature: float = 1.0, per: str = TOKEN) -> Weighting:
    """The weighting of `count` teachers from the values of the three options.

    Raises KDError for weights that do not fit the teachers, and for an option that would have no effect.
    """
    kind, numbers = (text, ()) if text in (EQUAL, ADAPTIVE, NLL) else ("numbers", _numbers(text, count))
    if not 0 < temperature < math.inf:
        raise KDError(f"--teacher-weight-temperature {temperature}: must be above 0, because it divides")
    if count < 2 and (text, temperature, per) != (EQUAL, 1.0, TOKEN):
        raise KDError(
            f"--teacher-weights {text} (or its temperature or unit) has no effect with one teacher: give several, "
            "--teacher A:B"
        )
    if kind not in (ADAPTIVE, NLL) and temperature != 1:
        raise KDError(
            f"--teacher-weight-temperature {temperature} has no effect with --teacher-weights {text}: it belongs to "
            "adaptive and nll"
        )
    if kind != ADAPTIVE and per != TOKEN:
        raise KDError(
            f"--teacher-weights-per {per} has no effect with --teacher-weights {text}: it belongs to adaptive"
        )
    return Weighting(kind, numbers, temperature, per)


def _numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(word) for word in text.split(":"))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 <= number < math.inf for number in numbers) or not any(numbers):
        raise KDError(
            f"--teacher-weights {text}: must be equal, adaptive, nll, or one number per teacher joined by ':', each 0 "
            "or larger and not all 0"
        )
    if len(numbers) != count:
        raise KDError(f"--teacher-weights {text} has {len(numbers)} numbers for {count} teachers: give one per teacher")
    return numbers
