"""Divergences between teacher and student, one value a token, in nats: the readable definition of each.

All take normalised log-probabilities over the same outcomes: the whole vocabulary, or the k types of a truncated
teacher and one bucket for all others. Each side has its own temperature already. No gradient reaches the teacher.

Log-probabilities of a temperature T come from those of temperature 1: softmax(z / T) = softmax(log softmax(z) / T),
because a constant added to a row of logits changes nothing.

A log-probability of -inf is a probability of 0, with 0 ln 0 = 0 and 0 ln (0 / 0) = 0, their limits; so is a probability
that the type of float cannot tell from 0. No gradient comes from such an outcome of the student, by which the loss has
the limit 0. A KL is +inf where its second distribution is 0 and its first is not: that is its value.
"""

import math

import torch


def temper(lprobs: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities (..., V) at `temperature` from those at temperature 1.

    The temperature divides the logits: above 1 the distribution is flatter.
    """
    return lprobs if temperature == 1 else torch.log_softmax(lprobs / temperature, dim=-1)


def bucket(lprobs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, k + 1): of the types `ids` (N, k), and in the last column of all other types together.

    lprobs (N, V) normalised, k < V.
    """
    least = torch.finfo(lprobs.dtype).min  # not -inf: logsumexp of nothing but -inf has no gradient but NaN
    rest = lprobs.scatter(-1, ids, least).logsumexp(dim=-1, keepdim=True)
    rest = rest.masked_fill(rest <= least / 2, -math.inf)
    return torch.cat([lprobs.gather(-1, ids), rest], dim=-1)


def forward_kl(student_lprobs: torch.Tensor, teacher_lprobs: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of each token, in nats.

    Both (N, K), normalised. Returns (N,). Raises ValueError when the shapes differ.
    Source: Hinton et al. 2015, section 2 (cross-entropy with soft targets; the entropy of the teacher, which has no
    gradient, is taken off so that the value is 0 where the two agree). +inf where the student excludes what the teacher
    does not.
    """
    return _kl(_fitting(student_lprobs, teacher_lprobs), student_lprobs)


def reverse_kl(student_lprobs: torch.Tensor, teacher_lprobs: torch.Tensor) -> torch.Tensor:
    """KL(student || teacher) of each token, in nats: what the student says must be likely for the teacher.

    Both (N, K), normalised. Returns (N,): +inf where the teacher excludes what the student does not. Raises ValueError
    when the shapes differ.
    """
    return _kl(student_lprobs, _fitting(student_lprobs, teacher_lprobs))


def js(student_lprobs: torch.Tensor, teacher_lprobs: torch.Tensor, beta: float = 0.5) -> torch.Tensor:
    """Jensen-Shannon divergence of each token, in nats: β KL(p || m) + (1 - β) KL(q || m), m = βp + (1 - β)q.

    Both (N, K), normalised; p is the teacher's, q the student's; 0 < beta < 1. Returns (N,), always finite.
    Raises ValueError when the shapes differ. Source: Lin 1991 (β = 1/2); with a free β as in Agarwal et al. 2024.
    """
    teacher_lprobs = _fitting(student_lprobs, teacher_lprobs)
    log_beta, log_rest = torch.tensor([beta, 1 - beta], dtype=torch.float64).log().tolist()
    least = torch.finfo(student_lprobs.dtype).min  # of two times -inf logaddexp has no gradient but NaN
    mixture = torch.logaddexp(teacher_lprobs + log_beta, student_lprobs.clamp(min=least) + log_rest)
    return beta * _kl(teacher_lprobs, mixture) + (1 - beta) * _kl(student_lprobs, mixture)


def centred_mse(student_lprobs: torch.Tensor, teacher_lprobs: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the logits of each token, each side's row mean taken off.

    Both (N, K), logits or log-probabilities of K types: these differ by a constant a row, which centring removes.
    A type with -inf on either side has no logit: mean and row means are over the others, and 0 where there are none.
    Returns (N,), in squared nats. Raises ValueError when the shapes differ.
    Source: the MSE of arXiv 2401.06356 and Kim et al. 2021 is over raw logits; a constant added to a row of logits
    changes no distribution, so here it costs nothing.
    """
    teacher_lprobs = _fitting(student_lprobs, teacher_lprobs)
    none = (student_lprobs == -math.inf) | (teacher_lprobs == -math.inf)
    difference = student_lprobs.masked_fill(none, 0) - teacher_lprobs.masked_fill(none, 0)
    count = (~none).sum(dim=-1, keepdim=True).clamp(min=1)
    centred = (difference - difference.sum(dim=-1, keepdim=True) / count).masked_fill(none, 0)
    return centred.square().sum(dim=-1) / count.squeeze(-1)


def ranking(student_lprobs, teacher_ids, teacher_lprobs, own_ids, own_teacher_lprobs) -> torch.Tensor:
    """Hierarchical ranking loss of each token: hinges on the student's probabilities q, in probability.

        Σ_i max(0, q(t_i) - q(t_1))  +  Σ_i Σ_j [p(t_i) > p(s_j)] · max(0, q(s_j) - q(t_i))

    t_1..t_r are the teacher's most probable types, s_1..s_r the student's: the teacher's should be the student's too,
    and the teacher's first should be the student's first.
    student_lprobs (N, V); teacher_ids (t) and own_ids (s), (N, r), by falling probability, with the teacher's
    log-probabilities of both, (N, r). Returns (N,).
    Source: Zhang et al., ACL 2023 (arXiv 2305.08096), the ranking part of TIE-KD. It ranks by probabilities, not by
    logits, as the authors' code does.
    """
    own = student_lprobs.gather(-1, own_ids).exp()  # q(s_j)
    theirs = student_lprobs.gather(-1, teacher_ids).exp()  # q(t_i)
    first = (theirs - theirs[:, :1]).clamp(min=0).sum(dim=-1)
    wrong = teacher_lprobs.unsqueeze(-1) > own_teacher_lprobs.unsqueeze(1)  # (N, i, j)
    hinges = (own.unsqueeze(1) - theirs.unsqueeze(-1)).clamp(min=0)  # (N, i, j)
    return first + (hinges * wrong).sum(dim=(-1, -2))


def temperature_scale(policy: str | float, teacher_temperature: float, student_temperature: float) -> float:
    """The factor λ of the teacher's term.

    policy: "auto" (T² when both temperatures are T, else 1), "none" (1) or a positive number.
    T² keeps the size of the gradient when both temperatures grow (Hinton et al. 2015, section 2.1: it falls as 1/T²);
    with the student at temperature 1 it does not fall, so there is nothing to undo.
    """
    if policy == "auto":
        same = teacher_temperature == student_temperature
        return teacher_temperature**2 if same else 1.0  # the only place where T² is applied
    return 1.0 if policy == "none" else float(policy)


def _kl(lprobs: torch.Tensor, other_lprobs: torch.Tensor) -> torch.Tensor:
    """KL(first || second) of each row, in nats, with nothing for the outcomes that the first does not have."""
    probs = lprobs.exp()
    difference = (lprobs - other_lprobs).masked_fill(probs == 0, 0)
    return (probs * difference).sum(dim=-1)


def _fitting(student_lprobs: torch.Tensor, teacher_lprobs: torch.Tensor) -> torch.Tensor:
    if student_lprobs.shape != teacher_lprobs.shape:
        raise ValueError(f"student {tuple(student_lprobs.shape)} and teacher {tuple(teacher_lprobs.shape)} differ")
    return teacher_lprobs.detach()
