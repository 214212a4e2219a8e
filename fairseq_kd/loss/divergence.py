"""Divergences between teacher and student, one value a token, in nats: the readable definition of each.

Log-probabilities of a temperature T come from those of temperature 1: softmax(z / T) = softmax(log softmax(z) / T),
because a constant added to a row of logits changes nothing.
"""

import torch


def temper(lprobs: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities (..., V) at `temperature` from those at temperature 1.

    The temperature divides the logits: above 1 the distribution is flatter.
    """
    return lprobs if temperature == 1 else torch.log_softmax(lprobs / temperature, dim=-1)


def forward_kl(student_lprobs: torch.Tensor, teacher_lprobs: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of each token, in nats.

    Both (N, V), normalised, each at its own temperature. Returns (N,). No gradient reaches the teacher.
    Raises ValueError when the shapes differ.
    Source: Hinton et al. 2015, section 2 (cross-entropy with soft targets; the entropy of the teacher, which has no
    gradient, is taken off so that the value is 0 where the two agree).
    """
    if student_lprobs.shape != teacher_lprobs.shape:
        raise ValueError(f"student {tuple(student_lprobs.shape)} and teacher {tuple(teacher_lprobs.shape)} differ")
    teacher_lprobs = teacher_lprobs.detach()
    return (teacher_lprobs.exp() * (teacher_lprobs - student_lprobs)).sum(dim=-1)


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
