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

import math

import torch

from fairseq_kd.loss.divergences.base import Divergence, register
from fairseq_kd.loss.rows import Values, add_rows_, column, kl, row_dot, scale_rows_, softmax_
from fairseq_kd.loss.signal import SMALLEST_OUTSIDE, TopKSignal, WholeSignal


class TruncatedKL:
    """Forward KL of N tokens from a truncated teacher, as a linear function of a few numbers of the student:

        KL = constant - Σ_k pull_k · z_k - tail · rest + total · lse

    for logits that are divided by the student's temperature τ. Everything but z_k, rest and lse is known before the
    first chunk. With tail shapes, the term of `shape_z` is part of the constant, and `tail` is None.
    """

    def __init__(self, signal: TopKSignal, objective, dtype: torch.dtype):
        """dtype: of all computations."""
        tau, weight = objective.student_temperature, objective.kd_weight
        factor = weight * objective.scale
        probs, tail = signal.lprobs.to(dtype).exp(), signal.tail.to(dtype)
        self.tau, self.pull, self.tail, self.shapes = tau, probs, tail.exp(), None
        self.constant = torch.xlogy(probs, probs).sum(dim=1)
        if signal.shapes is None:
            self.constant += self.tail * tail
            self.total = probs.sum(dim=1) + self.tail
            self.tail_gradient = factor * self.tail
        else:
            self._add_shapes(signal, probs, tail)
            self.shape_gradient = -factor * self.shape_weight / tau
        self.seen = []  # of each chunk: named, rest, lse
        self.pull_gradient = column(factor) * self.pull
        self.lse_gradient = (1 - weight if tau == 1 else 0) + factor * self.total

    def _add_shapes(self, signal: TopKSignal, probs, tail) -> None:
        self.shape_ids, self.tail = signal.shape_ids, None
        log_shapes = signal.shapes.to(probs.dtype)  # (G, V), finite
        self.shapes = log_shapes.exp()
        lprobs = log_shapes[signal.shape_ids.unsqueeze(1), signal.ids]  # (N, k)
        named = lprobs.exp()
        outside = self.shapes.sum(dim=1)[self.shape_ids] - named.sum(dim=1)  # Σ M over the entries that are not named
        log_w = tail - outside.clamp(min=SMALLEST_OUTSIDE).log()
        self.shape_weight = w = log_w.exp()
        negentropy = (self.shapes * log_shapes).sum(dim=1)[self.shape_ids] - (named * lprobs).sum(dim=1)
        self.constant += w * (outside * log_w + negentropy)
        self.total = probs.sum(dim=1) + w * outside
        self.pull = probs - w.unsqueeze(1) * named

    def see_student(self, x: torch.Tensor, projection: torch.Tensor, row_weight, needs_gradient: bool) -> None:
        """Compute shape_z = Σ M z over the vocabulary for each token, and the gradient that comes through it.

        x (N, d), in the type of all computations; projection (V, d); row_weight (N,) or None multiplies the gradient.
        """
        if self.shapes is None:
            return
        self.projected = self.shapes @ projection.to(x.dtype)  # (G, d): M W
        ids = self.shape_ids.unsqueeze(1)
        shape_z = (x @ self.projected.t()).gather(1, ids).squeeze(1)
        self.constant -= self.shape_weight * shape_z / self.tau
        if needs_gradient:
            each = self.shape_gradient if row_weight is None else self.shape_gradient * row_weight
            self.by_shape = x.new_zeros(len(x), len(self.shapes))  # (N, G); products add in a fixed order
            self.by_shape.scatter_(1, ids, each.unsqueeze(1))
            self.gathered = self.by_shape.t() @ x  # (G, d)

    def add_gradient(self, d_features, d_projection) -> None:
        """Add the gradient that comes through shape_z to d_features (N, d) and d_projection (V, d)."""
        if self.shapes is not None:
            d_features.addmm_(self.by_shape, self.projected)
            d_projection.addmm_(self.shapes.t(), self.gathered)

    def of_rows(self, start: int, end: int):
        """The function `differentiate` of `chunk.by_buckets`, for the rows from start to before end."""

        def differentiate(named, rest):
            outcomes = torch.cat([named, rest.unsqueeze(1)], dim=1)
            gradient = torch.softmax(outcomes, dim=1)
            lse = outcomes.amax(dim=1) - gradient.amax(dim=1).log()
            self.seen.append((named, rest, lse))
            gradient.mul_(self.lse_gradient[start:end].unsqueeze(1))
            gradient[:, :-1].sub_(self.pull_gradient[start:end])
            if self.tail is not None:
                gradient[:, -1].sub_(self.tail_gradient[start:end]).masked_fill_(rest == -math.inf, 0)
            return gradient, lse, None

        return differentiate

    def divergence(self) -> torch.Tensor:
        """The KL of all tokens, (N,), after `of_rows` for all of them, in order."""
        named, rest, lse = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        pulled = (self.pull * named.masked_fill(self.pull == 0, 0)).sum(dim=1)  # 0 · inf = 0
        value = torch.addcmul(self.constant, self.total, lse).sub_(pulled)
        return value if self.tail is None else value.sub_(self.tail * rest)


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
    fused_top_k = TruncatedKL

    def between(self, student, teacher):
        """KL(p || q)."""
        return kl(teacher, student)

    def fused_dense(self, chunk, objective, signal: WholeSignal, start: int, end: int):
        """Gradient and values of the rows from start to before end; the gradient of the KL is (q - p) / τ.

        See `fairseq_kd.loss.chunk` for the arguments and the result. With the logits t of the teacher (at its
        temperature) and z of the student: KL = Σ p (t - z / τ) - lse(t) + lse(z / τ).
        """
        z, weight, tau = chunk.z, objective.kd_weight, objective.student_temperature
        z_gold, factor = chunk.pick_gold(), weight * objective.scale / tau
        logits = signal.logits(start, end, out=chunk.spare(0)).to(z.dtype)
        probs = torch.softmax(logits, dim=1, out=chunk.spare(1))
        top, ids = logits.max(dim=1, keepdim=True)
        value = (probs.gather(1, ids).log() - top).squeeze(1)  # -lse(t)
        named = z.gather(1, ids).squeeze(1)
        difference = torch.sub(logits, z, alpha=1 / tau, out=chunk.spare(0))  # overwrites the logits
        if signal.may_exclude:  # given log-probabilities can be -inf
            difference.masked_fill_(probs == 0, 0)  # 0 ln 0 = 0
        value += row_dot(probs, difference)
        if tau == 1:
            lse, best = softmax_(z)
            value += lse
            scale_rows_(z, 1 - weight + factor)
        else:
            tempered = torch.div(z, tau, out=chunk.spare(0))
            value += softmax_(tempered)[0]
            lse, best = softmax_(z)
            add_rows_(scale_rows_(z, 1 - weight), tempered, factor)
        add_rows_(z, probs, -factor)
        chunk.add_gold()
        return Values(lse, z_gold, best, named, value)


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
        dense = isinstance(signal, WholeSignal)
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
