"""Kullback-Leibler divergences: forward, reverse, and forward with a ranking; and the fast paths of the forward one.

Forward KL from k entries and a tail of a known shape, without a pass over the vocabulary:

Outside of its k entries K, the teacher's distribution of a token is w · M. M is one of G shared distributions (the
tail shapes, over all V entries), and w = tail / (1 - Σ_K M), so that the tail keeps its mass. With ln q = z - lse:

    KL = Σ_K p (ln p - z + lse)  +  w Σ_{v not in K} M_v (ln w + ln M_v - z_v + lse)

Each sum over the entries outside of K is the sum over all V less the sum over K, which is short. Over all V, Σ M and
Σ M ln M are constants of the shape, and Σ M z = x · (M W) for logits z = x Wᵀ. M W has G rows and is computed once per
batch. So the KL is a function of the named logits, of lse and of `shape_z` = Σ M z. Its derivative by shape_z is -w,
and the chain rule gives -w (M W) for the features and -Mᵀ (Σ w x, summed per shape) for the projection.
"""

import torch

from fairseq_kd.loss.divergences.base import Divergence, register
from fairseq_kd.loss.rows import column, kl, softmax_
from fairseq_kd.loss.signal import SMALLEST_OUTSIDE, DenseSignal, TopKSignal


class ShapedTails:
    """The tail shapes of a batch and the student's projection, and the gradient that they accumulate."""

    def __init__(self, shapes: torch.Tensor, projection: torch.Tensor, dtype: torch.dtype):
        """shapes (G, V): ln M; projection (V, d): W; dtype: of all computations."""
        self.lprobs = shapes.to(dtype)
        self.probs = self.lprobs.exp()
        self.mass = self.probs.sum(dim=1)  # (G,): 1, up to rounding
        self.negentropy = (self.probs * self.lprobs).sum(dim=1)  # (G,)
        self.projected = self.probs @ projection.to(dtype)  # (G, d)
        self.gathered = torch.zeros_like(self.projected)

    def shape_z(self, x: torch.Tensor, shape_ids: torch.Tensor) -> torch.Tensor:
        """Σ M z over the vocabulary, (n,), for the features x (n, d) and the shape of each row (n,)."""
        of_all = x.to(self.projected.dtype) @ self.projected.t()  # (n, G)
        return of_all.gather(1, shape_ids.unsqueeze(1)).squeeze(1)

    def value(self, named, lse, shape_z, signal: TopKSignal) -> torch.Tensor:
        """KL(teacher || student) of each token, in nats, (n,).

        named (n, k): z of the named entries; lse (n,): log-sum-exp of all z; shape_z (n,). All are divided by the
        student's temperature.
        """
        lprobs = self.lprobs[signal.shape_ids.unsqueeze(1), signal.ids]  # (n, k)
        probs = lprobs.exp()
        outside = self.mass[signal.shape_ids] - probs.sum(dim=1)  # Σ M over the entries that are not named
        log_w = signal.tail - outside.clamp(min=SMALLEST_OUTSIDE).log()
        negentropy = self.negentropy[signal.shape_ids] - (probs * lprobs).sum(dim=1)
        outside_z = shape_z - (probs * named).sum(dim=1)
        top_probs = signal.lprobs.exp()
        difference = (signal.lprobs - named + lse.unsqueeze(1)).masked_fill(top_probs == 0, 0)  # 0 ln 0 = 0
        top = (top_probs * difference).sum(dim=1)
        return top + log_w.exp() * (outside * (log_w + lse) + negentropy - outside_z)

    def add_gradient(self, d_features, x, shape_ids, d_shape_z) -> None:
        """Add the part of the gradient that comes through shape_z to d_features (n, d), and keep it for `finish`.

        d_shape_z (n,): the derivative of the loss by shape_z.
        """
        weights = self.projected.new_zeros(len(x), len(self.projected))  # (n, G); products add in a fixed order
        weights.scatter_(1, shape_ids.unsqueeze(1), d_shape_z.unsqueeze(1))
        d_features.addmm_(weights, self.projected)
        self.gathered.addmm_(weights.t(), x.to(self.gathered.dtype))

    def finish(self, d_projection) -> None:
        """Add what `add_gradient` kept to d_projection (V, d)."""
        d_projection.addmm_(self.probs.t(), self.gathered)


@register
class ForwardKL(Divergence):
    """KL(teacher || student): the cross-entropy with the teacher's distribution, less the teacher's entropy.

    The entropy has no gradient; without it the value is 0 where the two agree. The value is +inf where the student
    excludes an outcome and the teacher does not. A bucket gives a lower bound of the value over the whole vocabulary.
    """

    name = "kl"
    formula = "KL(p||q)"
    source = "Hinton et al. 2015, section 2"
    sees_tail_shapes = True
    fused_tails = ShapedTails

    def between(self, student, teacher):
        """KL(p || q)."""
        return kl(teacher, student)

    def fused_dense(self, chunk, objective, signal: DenseSignal, start: int, end: int):
        """Loss and gradient of the rows from start to before end; the gradient of the KL is (q - p) / τ.

        See `fairseq_kd.loss.chunk` for the arguments and the result.
        """
        z, weight, tau = chunk.z, objective.kd_weight, objective.student_temperature
        z_gold, factor = chunk.pick_gold(), weight * objective.scale / tau
        teacher_lprobs = signal.rows(start, end, out=chunk.spare(0))
        named = z.gather(1, teacher_lprobs.argmax(dim=1, keepdim=True)).squeeze(1)
        probs = torch.exp(teacher_lprobs, out=chunk.spare(1))
        difference = torch.sub(teacher_lprobs, z, alpha=1 / tau, out=chunk.spare(0))  # overwrites teacher_lprobs
        difference.masked_fill_(probs == 0, 0)  # 0 ln 0 = 0
        value = torch.linalg.vecdot(probs, difference)
        if tau == 1:
            lse, best = softmax_(z)
            value += lse
            z.mul_(column(1 - weight + factor))
        else:
            tempered = torch.div(z, tau, out=chunk.spare(0))
            value += softmax_(tempered)[0]
            lse, best = softmax_(z)
            z.mul_(column(1 - weight)).add_(tempered.mul_(column(factor)))
        z.sub_(probs.mul_(column(factor)))
        return chunk.add_gold_loss(objective, z_gold, lse, value, named >= best, z_gold >= best)


@register
class ReverseKL(Divergence):
    """KL(student || teacher): outcomes that are likely for the student must be likely for the teacher.

    The value is +inf where the teacher excludes an outcome and the student does not.
    """

    name = "reverse_kl"
    formula = "KL(q||p)"
    source = "Gu et al. 2024 (MiniLLM, arXiv 2306.08543), there per sequence"

    def between(self, student, teacher):
        """KL(q || p)."""
        return kl(student, teacher)


@register
class RankingKL(Divergence):
    """KL(teacher || student) plus the hierarchical ranking loss of the five most probable entries of each side.

    The gradient of the ranking falls as 1 / T, and the gradient of the KL as 1 / T². --kd-scale auto multiplies both by
    T². The ranking has a kink where two of the probabilities are equal.
    """

    name = "tie"
    formula = "kl and a ranking of the five most probable tokens"
    source = "Zhang et al. 2023 (arXiv 2305.08096)"
    sees_tail_shapes = True
    needs_vocabulary = True
    is_smooth = False
    size = 5

    def between(self, student, teacher):
        """The part without the ranking: KL(p || q)."""
        return kl(teacher, student)

    def of_signal(self, student, signal):
        """KL and ranking."""
        value = super().of_signal(student, signal)
        dense = isinstance(signal, DenseSignal)
        size = min(self.size, student.size(-1) if dense else signal.ids.size(-1))
        own_ids = student.topk(size, dim=-1).indices
        if dense:
            teacher = signal.rows()
            top, ids = teacher.topk(size, dim=-1)
            own = teacher.gather(-1, own_ids)
        else:
            top, ids, own = signal.lprobs[:, :size], signal.ids[:, :size], lookup(signal, own_ids)
        return value + ranking(student, ids, top, own_ids, own)


def ranking(student_lprobs, teacher_ids, teacher_lprobs, own_ids, own_teacher_lprobs) -> torch.Tensor:
    """Hierarchical ranking loss of each token, (N,): hinges on the student's probabilities q, in probability.

        Σ_i max(0, q(t_i) - q(t_1))  +  Σ_i Σ_j [p(t_i) > p(s_j)] · max(0, q(s_j) - q(t_i))

    t_1..t_r are the teacher's most probable entries, s_1..s_r the student's. The teacher's should also be the
    student's, and the teacher's first should also be the student's first.
    student_lprobs (N, V); teacher_ids (t) and own_ids (s), (N, r), by falling probability; the teacher's
    log-probabilities of both, (N, r).
    Source: Zhang et al., ACL 2023 (arXiv 2305.08096), the ranking part of TIE-KD. It ranks by probabilities and not by
    logits, as the authors' code does.
    """
    own = student_lprobs.gather(-1, own_ids).exp()  # q(s_j)
    theirs = student_lprobs.gather(-1, teacher_ids).exp()  # q(t_i)
    first = (theirs - theirs[:, :1]).clamp(min=0).sum(dim=-1)
    wrong = teacher_lprobs.unsqueeze(-1) > own_teacher_lprobs.unsqueeze(1)  # (N, i, j)
    hinges = (own.unsqueeze(1) - theirs.unsqueeze(-1)).clamp(min=0)  # (N, i, j)
    return first + (hinges * wrong).sum(dim=(-1, -2))


def lookup(signal: TopKSignal, ids: torch.Tensor) -> torch.Tensor:
    """The teacher's log-probabilities of `ids` (N, r); -inf for an entry that the signal does not name."""
    same = ids.unsqueeze(-1) == signal.ids.unsqueeze(1)  # (N, r, k)
    return torch.where(same, signal.lprobs.unsqueeze(1), float("-inf")).amax(dim=-1)
