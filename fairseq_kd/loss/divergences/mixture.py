"""Divergences from a mixture of teacher and student. A mixture excludes only what both exclude, so they are finite."""

import torch

from fairseq_kd.loss.divergences.base import Divergence, Parameter, register
from fairseq_kd.loss.rows import kl


def mix(teacher: torch.Tensor, student: torch.Tensor, weight: float) -> torch.Tensor:
    """ln(weight · p + (1 - weight) · q), (N, K), from the log-probabilities of p (teacher) and q (student).

    weight: above 0 and below 1.
    """
    log_weight, log_rest = torch.tensor([weight, 1 - weight], dtype=torch.float64).log().tolist()
    least = torch.finfo(student.dtype).min  # logaddexp(-inf, -inf) has the gradient NaN
    return torch.logaddexp(teacher + log_weight, student.clamp(min=least) + log_rest)


@register
class JensenShannon(Divergence):
    """Generalised Jensen-Shannon divergence JS_β = β KL(p || m) + (1 - β) KL(q || m), with m = β p + (1 - β) q.

    β = --js-beta is the weight of the teacher p in the mixture m, above 0 and below 1.

    This is JSD(β) of GKD (Agarwal et al. 2024, arXiv 2306.13649, equation 1), and what TRL's
    GKDTrainer.generalized_jsd_loss computes for 0 < beta < 1 since its pull request 3043 (March 2025): the same β gives
    the same value per token. Before that change TRL gave the weight β to the student in the mixture. Read for this:
    TRL's pull request 3043, its issue 6780 and copies of the function; not the paper's text.

    At the ends they differ. The formula gives 0 for every pair at β = 0 and β = 1, so kd_word refuses these values.
    TRL replaces the formula there: beta = 0 means KL(p || q), and beta = 1 means KL(q || p). For these use
    --kd-divergence kl and reverse_kl. TRL's loss jumps at the ends: JS_β / β tends to KL(p || q) as β tends to 0, and
    JS_β / (1 - β) tends to KL(q || p) as β tends to 1, but JS_β itself tends to 0. A β near an end thus makes the
    teacher's term weak; --kd-scale can make up for it.

    For p = (0.5, 0.5) and q = (0.9, 0.1), in nats:

        β             0 (limit)   0.01       0.5       0.99       1 (limit)
        JS_β          0           0.005020   0.1017    0.003649   0
        JS_β / β      0.5108      0.5020
        JS_β / (1-β)                                   0.3649     0.3681
        TRL's loss    0.5108      0.005020   0.1017    0.003649   0.3681

    0.5108 = ln(5/3) = KL(p || q) and 0.3681 = 1.8 ln 3 - ln 5 = KL(q || p).
    """

    name = "js"
    formula = "β KL(p||m) + (1-β) KL(q||m) with m = βp + (1-β)q"
    source = "Lin 1991 (β = 1/2); Agarwal et al. 2024 (GKD, arXiv 2306.13649)"
    parameters = (
        Parameter(
            "js_beta",
            default=0.5,
            low=0,
            high=1,
            help="β of --kd-divergence js, the weight of the teacher in the mixture, above 0 and below 1. It is the β "
            "of GKD and the beta of TRL, which computes kl at 0 and reverse_kl at 1",
            at_the_ends="0 and 1 give 0 for every pair; TRL's 0 is --kd-divergence kl, its 1 is reverse_kl",
        ),
    )

    def between(self, student, teacher):
        """JS_β."""
        beta, mixture = self.js_beta, mix(teacher, student, self.js_beta)
        return beta * kl(teacher, mixture) + (1 - beta) * kl(student, mixture)


SKEW_ALPHA = Parameter(
    "skew_alpha",
    default=0.1,
    low=0,
    high=1,
    help="α of --kd-divergence skew_kl and skew_reverse_kl, above 0 and below 1: the share of the first distribution "
    "that is mixed into the second",
    at_the_ends="0 gives --kd-divergence kl or reverse_kl, 1 gives 0 for every pair",
)


@register
class SkewKL(Divergence):
    """KL(p || α p + (1 - α) q), with α = --skew-alpha: forward KL that is finite where the student excludes an outcome.

    It is at most ln 1/α. Near q = p it is (1 - α)² KL(p || q), so α makes the teacher's term a little weaker.
    Read for the definition: the authors' code (github.com/jongwooko/distillm, distillm/losses.py, skewed_forward_kl,
    whose `lam` = 0.1 is α), not the paper's text. The code leaves out the teacher's entropy, a constant; here the value
    is 0 where the two agree. The code gives outcomes with -inf on either side no loss; here they have their limits.
    """

    name = "skew_kl"
    formula = "KL(p||αp + (1-α)q)"
    source = "Ko et al. 2024 (DistiLLM, arXiv 2402.03898)"
    parameters = (SKEW_ALPHA,)

    def between(self, student, teacher):
        """KL(p || α p + (1 - α) q)."""
        return kl(teacher, mix(teacher, student, self.skew_alpha))


@register
class SkewReverseKL(Divergence):
    """KL(q || (1 - α) p + α q), with α = --skew-alpha: reverse KL that is finite where the teacher excludes an outcome.

    It is at most ln 1/α. Near q = p it is (1 - α)² KL(q || p).
    Read for the definition: the authors' code, as for SkewKL (skewed_reverse_kl, whose `lam` = 0.1 is α).
    """

    name = "skew_reverse_kl"
    formula = "KL(q||(1-α)p + αq)"
    source = "Ko et al. 2024 (DistiLLM, arXiv 2402.03898)"
    parameters = (SKEW_ALPHA,)

    def between(self, student, teacher):
        """KL(q || (1 - α) p + α q)."""
        return kl(student, mix(teacher, student, 1 - self.skew_alpha))
