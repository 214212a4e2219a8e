"""The objective of word-level KD from the decoder's features, a few hundred rows at a time.

No array of size N x V is kept. Each chunk of logits z = x Wᵀ is in one buffer, becomes dloss/dz in place, and is
multiplied into dloss/dx and dloss/dW at once, in the forward pass. The backward pass multiplies these two by the
gradient that arrives. So an update has the three matrix products of the plain cross-entropy and a few passes over a
buffer that fits a CPU cache, instead of a dozen passes over N x V.

With a truncated teacher (k entries and a tail) the divergence is a function of k + 1 numbers of the student: z of the k
entries, and r = ln Σ exp z over all others. Autograd differentiates the readable definition by these (N, k + 1)
numbers. The chain rule does the rest, because dr/dz_j is the softmax over the others, which the buffer holds:

    dloss/dz_j = g_j for a named entry,  g_r · exp(z_j - r) for any other.

The log-sum-exp of all z, on which the cross-entropy depends, is the same kind of function. A divergence can have fast
paths of its own (`Divergence`): forward KL has one for a tail of a known shape, where it depends on one number more,
and one for the whole distribution of an online teacher. Autograd differentiates every other combination, chunk by
chunk.

Label smoothing adds -ε_i to every column of dloss/dz. This has rank one, so it needs Σ x and Σ W and no pass over V.
"""

import torch

from fairseq_kd.loss.chunk import Chunk, by_autograd, gold_only, top_k
from fairseq_kd.loss.objective import Losses, Objective
from fairseq_kd.loss.rows import softmax_, weighted
from fairseq_kd.loss.signal import DenseSignal, TopKSignal

CHUNK_ROWS = 512  # on a CPU more rows do not make the products faster, and the buffer is small (20 MiB at V = 10k)
CUDA_ENTRIES = 2**26  # logits per chunk: with fewer, launching the kernels takes longer than running them
LARGEST_HALF = 2.0**15  # float16 ends at 65,504


def fused_loss(features, projection, target, signal, objective: Objective, matmul_dtype=None, weight=None) -> Losses:
    """The objective, summed over N tokens, from the student's features (N, d) and output projection (V, d).

    target (N,); signal: the teacher's signal of the same N rows, or None. weight (N,) multiplies each token's loss, but
    not nll and kd; None means 1. Differentiable once by features, projection and weight.
    features may be float16, bfloat16, float32 or float64. Softmax, loss and the gradient of the projection are float32,
    or float64 if the features are. The matrix products are computed in matmul_dtype; None: the features' type, or the
    type that autocast chooses.
    """
    arguments = (features, projection, target, signal, objective, matmul_dtype or _natural_dtype(features))
    loss, nll, kd, agreed, correct = _FusedLoss.apply(*arguments, weight)
    if signal is None:
        return Losses(loss, nll, correct)
    return Losses(loss, nll, correct, kd, agreed)


@torch.no_grad()
def token_nll(features, projection, target) -> torch.Tensor:
    """-log q(gold) of each of the N tokens, in nats, (N,); arguments as in `fused_loss`."""
    parts = []
    features, projection = (t.to(_natural_dtype(features)) for t in (features, projection))
    rows = chunk_rows(features.device, projection.size(0))
    for start in range(0, features.size(0), rows):
        z = features[start : start + rows] @ projection.t()
        z = z if z.dtype == torch.float64 else z.float()
        z_gold = z.gather(1, target[start : start + rows].unsqueeze(1)).squeeze(1)
        parts.append(softmax_(z)[0] - z_gold)
    return torch.cat(parts) if parts else features.new_zeros(0)


def chunk_rows(device: torch.device, vocabulary: int) -> int:
    """How many rows of logits are computed at a time."""
    if device.type != "cuda":
        return CHUNK_ROWS
    return max(CHUNK_ROWS, round(CUDA_ENTRIES / vocabulary / 128) * 128)


def _natural_dtype(features) -> torch.dtype:
    """The type of a matrix product with the features in the caller's context, where autocast may be on."""
    device = features.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, projection, target, signal, objective, matmul_dtype, weight):
        needed = any(ctx.needs_input_grad)
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            chunks = _Chunks(features.to(matmul_dtype), projection.to(matmul_dtype), signal, objective, weight, needed)
            for start in range(0, features.size(0), chunks.chunk_rows):
                chunks.add(start, min(start + chunks.chunk_rows, features.size(0)), target)
            if needed:
                chunks.finish()
                ctx.save_for_backward(*chunks.gradients())
        ctx.dtypes = (features.dtype, projection.dtype) + (() if weight is None else (weight.dtype,))
        ctx.mark_non_differentiable(*chunks.sums[1:])
        return tuple(chunks.sums)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss, *_):
        # in place, because a copy of dW would be the largest tensor here. A second backward pass raises, as it must
        gradients = [saved.mul_(grad_loss) for saved in ctx.saved_tensors]
        d_features, d_projection, *d_weight = (g.to(dtype) for g, dtype in zip(gradients, ctx.dtypes, strict=True))
        return d_features, d_projection, *[None] * 4, *(d_weight or [None])


class _Chunks:
    """The chunks of a batch, one after the other: the buffers, the sums and the gradients."""

    def __init__(self, features, projection, signal, objective, weight, needs_gradient):
        self.x, self.w, self.signal, self.objective = features, projection, signal, objective
        self.weight, self.needs_gradient = weight, needs_gradient
        self.dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        self.chunk_rows = chunk_rows(features.device, projection.size(0))
        self.buffers = [self._empty(min(self.chunk_rows, features.size(0)), projection.size(0))]
        self.sums = [self._empty().zero_() for _ in range(5)]
        self.each = objective.label_smoothing / (projection.size(0) - 1)
        self.w_sum = projection.sum(dim=0, dtype=self.dtype) if self.each else None
        shapes, fused_tails = getattr(signal, "shapes", None), objective.divergence.fused_tails
        shaped = shapes is not None and fused_tails is not None
        self.tails = fused_tails(shapes, projection, self.dtype) if shaped else None
        if needs_gradient:
            self.d_features = self._empty(*features.shape)
            self.d_projection = self._empty(*projection.shape).zero_()
            self.x_sum = self._empty(projection.size(1)).zero_()
            self.d_weight = None if weight is None else self._empty(features.size(0))

    def _empty(self, *shape):
        return torch.empty(shape, dtype=self.dtype, device=self.x.device)

    def _spare(self, number, rows):
        while len(self.buffers) < number + 2:
            self.buffers.append(torch.empty_like(self.buffers[0]))
        return self.buffers[number + 1][:rows]

    def add(self, start, end, target):
        """Loss and gradient of the rows from start to before end."""
        x, objective, signal = self.x[start:end], self.objective.part(start, end), self.signal
        divergence = objective.divergence
        z = self.buffers[0][: end - start]
        if x.dtype == self.dtype:
            torch.mm(x, self.w.t(), out=z)
        else:
            z.copy_(x @ self.w.t())
        z_sum = x.to(self.dtype) @ self.w_sum if self.each else None
        shape_z = None if self.tails is None else self.tails.shape_z(x, signal.shape_ids[start:end])
        chunk = Chunk(z, target[start:end], z_sum, lambda n: self._spare(n, end - start), self.tails, shape_z)
        smoothing = self.each * (1 if signal is None else 1 - objective.kd_weight)
        if signal is None:
            losses = gold_only(chunk, objective)
        elif isinstance(signal, TopKSignal) and not divergence.needs_vocabulary:
            losses = top_k(chunk, objective, signal.part(start, end))
        elif isinstance(signal, DenseSignal) and divergence.fused_dense is not None:
            losses = divergence.fused_dense(chunk, objective, signal, start, end)
        else:
            losses, smoothing = by_autograd(chunk, objective, signal.part(start, end)), 0.0
        if self.weight is not None:
            losses, smoothing = self._weigh(start, losses, chunk, smoothing)
        for total, values in zip(self.sums, losses, strict=True):
            if values is not None:
                total += values.sum()
        if self.needs_gradient:
            self._multiply(z, x, start, smoothing)
            if self.tails is not None:
                self.tails.add_gradient(self.d_features[start:end], x, signal.shape_ids[start:end], chunk.d_shape_z)

    def _weigh(self, start, losses, chunk, smoothing):
        """Multiply loss and gradient of each row by its weight. The gradient of the weight is the unweighted loss."""
        end = start + chunk.z.size(0)
        weight = self.weight[start:end].to(self.dtype)
        loss, *others = losses
        if self.needs_gradient:
            self.d_weight[start:end] = loss
            chunk.z.mul_(weight.unsqueeze(1))
            if chunk.d_shape_z is not None:
                chunk.d_shape_z *= weight
        return (weighted(weight, loss), *others), smoothing * weight

    def _multiply(self, z, x, start, smoothing):
        """dX = G W, dW += Gᵀ x, for the gradient G of the logits: z minus `smoothing` in every column."""
        d_features = self.d_features[start : start + x.size(0)]
        if x.dtype == self.dtype:
            torch.mm(z, self.w, out=d_features)
            self.d_projection.addmm_(z.t(), x)
        else:
            up = self._up(z, x)
            gradient = z.mul_(up).to(x.dtype)
            d_features.copy_(gradient @ self.w).div_(up)
            self.d_projection += (gradient.t() @ x).to(self.dtype).div_(up)
        if self.each:
            if not isinstance(smoothing, torch.Tensor):
                smoothing = d_features.new_full((x.size(0),), smoothing)
            d_features.addr_(smoothing, self.w_sum, alpha=-1)
            self.x_sum += smoothing @ x.to(self.dtype)

    def _up(self, z, x):
        """Factor for the gradient z in float16: small values are kept, and no sum over the rows can overflow.

        A value in zᵀ x is at most rows · max |z| · max |x|. The factor is a 0-d tensor: a number would wait for CUDA.
        """
        if x.dtype != torch.float16:
            return 1.0
        bound = x.size(0) * z.abs().amax() * x.abs().amax().to(self.dtype)
        return (LARGEST_HALF / bound.clamp(min=1e-6)).clamp(max=1024.0)

    def finish(self):
        """Add to dW the part of label smoothing, the same row for every entry, and the part of the tail shapes."""
        if self.each:
            self.d_projection -= self.x_sum
        if self.tails is not None:
            self.tails.finish(self.d_projection)

    def gradients(self) -> list:
        """The gradients by features, projection and, if there is one, weight."""
        return [self.d_features, self.d_projection] + ([] if self.d_weight is None else [self.d_weight])
