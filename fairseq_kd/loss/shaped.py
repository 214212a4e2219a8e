"""Forward KL from k types and a tail of a known shape, without a pass over the vocabulary.

Outside of its k types K a token's teacher is w · M, with M one of G shared distributions (the tail shapes, over all V
types) and w = tail / (1 - Σ_K M), so that the tail keeps its mass. With ln q = z - lse:

    KL = Σ_K p (ln p - z + lse)  +  w Σ_{v not in K} M_v (ln w + ln M_v - z_v + lse)

Each sum over the types that are not in K is that over all V less that over K, which is short. Over all V, Σ M and
Σ M ln M are constants of the shape, and Σ M z = x · (M W) for logits z = x Wᵀ: G rows of M W, once a batch. So the KL
is a function of the named logits, of lse and of `shape_z` = Σ M z; by this last its gradient is -w, and the chain rule
gives -w (M W) for the features and -Mᵀ (Σ w x, summed for each shape) for the projection.
"""

import torch

from fairseq_kd.teacher.signal import SMALLEST_OUTSIDE, TopKSignal


class ShapedTails:
    """The tail shapes of a batch beside the student's projection, and the gradient that they gather."""

    def __init__(self, shapes: torch.Tensor, projection: torch.Tensor, dtype: torch.dtype):
        """shapes (G, V): ln M; projection (V, d): W; dtype: of all that is computed."""
        self.lprobs = shapes.to(dtype)
        self.probs = self.lprobs.exp()
        self.mass = self.probs.sum(dim=1)  # (G,): 1, up to rounding
        self.negentropy = (self.probs * self.lprobs).sum(dim=1)  # (G,)
        self.projected = self.probs @ projection.to(dtype)  # (G, d)
        self.gathered = torch.zeros_like(self.projected)

    def shape_z(self, x: torch.Tensor, shape_ids: torch.Tensor) -> torch.Tensor:
        """Σ M z over all types, (n,), for the features x (n, d) and the shape of each row (n,)."""
        of_all = x.to(self.projected.dtype) @ self.projected.t()  # (n, G)
        return of_all.gather(1, shape_ids.unsqueeze(1)).squeeze(1)

    def forward_kl(self, named, lse, shape_z, signal: TopKSignal) -> torch.Tensor:
        """KL(teacher || student) of each token, in nats, (n,).

        named (n, k): z of the named types; lse (n,): log-sum-exp of all z; shape_z (n,). All divided by the
        student's temperature.
        """
        lprobs = self.lprobs[signal.shape_ids.unsqueeze(1), signal.ids]  # (n, k)
        probs = lprobs.exp()
        outside = self.mass[signal.shape_ids] - probs.sum(dim=1)  # Σ M over the types that are not named
        log_w = signal.tail - outside.clamp(min=SMALLEST_OUTSIDE).log()
        negentropy = self.negentropy[signal.shape_ids] - (probs * lprobs).sum(dim=1)
        outside_z = shape_z - (probs * named).sum(dim=1)
        top_probs = signal.lprobs.exp()
        difference = (signal.lprobs - named + lse.unsqueeze(1)).masked_fill(top_probs == 0, 0)  # 0 ln 0 = 0
        top = (top_probs * difference).sum(dim=1)
        return top + log_w.exp() * (outside * (log_w + lse) + negentropy - outside_z)

    def add_gradient(self, d_features, x, shape_ids, d_shape_z) -> None:
        """Add to d_features (n, d), and gather for `finish`, the gradient d_shape_z (n,) of the loss by shape_z."""
        weights = self.projected.new_zeros(len(x), len(self.projected))  # (n, G); products have a fixed order of sums
        weights.scatter_(1, shape_ids.unsqueeze(1), d_shape_z.unsqueeze(1))
        d_features.addmm_(weights, self.projected)
        self.gathered.addmm_(weights.t(), x.to(self.gathered.dtype))

    def finish(self, d_projection) -> None:
        """Add to d_projection (V, d) what was gathered."""
        d_projection.addmm_(self.probs.t(), self.gathered)
