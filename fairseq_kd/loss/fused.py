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
paths of its own (`Divergence`): forward KL has a closed form for a truncated teacher and for the whole distribution of
an online teacher or of a mixture of teachers. Autograd differentiates every other combination, chunk by chunk.

Label smoothing adds -ε_i to every column of dloss/dz. This has rank one, so it needs Σ x and Σ W and no pass over V.
All that needs no logits is computed once for all rows, before or after the chunks: on a GPU, small operations cost the
time of their launch.
"""

import torch

from fairseq_kd.loss.chunk import Chunk, by_autograd, gold_gradient, gold_only, losses_of, top_k
from fairseq_kd.loss.objective import Losses, Objective
from fairseq_kd.loss.products import accumulate, multiply, narrowed, padded_rows, pads
from fairseq_kd.loss.rows import Values, softmax_, weighted
from fairseq_kd.loss.signal import DenseSignal, TopKSignal, WholeSignal, rows_at_a_time

LARGEST_HALF = 2.0**15  # float16 ends at 65,504


def fused_loss(features, projection, target, signal, objective: Objective, matmul_dtype=None, weight=None) -> Losses:
    """The objective, summed over N tokens, from the student's features (N, d) and output projection (V, d).

    target (N,); signal: the teacher's signal of the same N rows, or None. weight (N,) multiplies each token's loss, but
    not nll and kd; None means 1. Differentiable once by features, projection and weight.
    features may be float16, bfloat16, float32 or float64. Softmax, loss and the gradient of the projection are float32,
    or float64 if the features are. The matrix products are computed in matmul_dtype; None: the features' type, or the
    type that autocast chooses. Where no gradient is recorded (validation), none is computed.
    """
    arguments = (features, projection, target, signal, objective, matmul_dtype or natural_dtype(features), weight)
    wanted = (features, projection, *(() if weight is None else (weight,)))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in wanted):
        sums = _FusedLoss.apply(*arguments)
    else:
        sums = _run(*arguments, needs_gradient=False).sums
    return Losses(*sums)


@torch.no_grad()
def token_nll(features, projection, target) -> torch.Tensor:
    """-log q(gold) of each of the N tokens, in nats, (N,); arguments as in `fused_loss`."""
    parts = []
    features, projection = (t.to(natural_dtype(features)) for t in (features, projection))
    logits = DenseSignal(features, projection)
    rows = rows_at_a_time(features.device, projection.size(0))
    for start in range(0, features.size(0), rows):
        z = logits.logits(start, start + rows)
        z_gold = z.gather(1, target[start : start + rows].unsqueeze(1)).squeeze(1)
        parts.append(softmax_(z)[0] - z_gold)
    return torch.cat(parts) if parts else features.new_zeros(0)


def natural_dtype(features: torch.Tensor) -> torch.dtype:
    """The type of a matrix product with the features in the caller's context, where autocast may be on."""
    device = features.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else features.dtype


def _run(features, projection, target, signal, objective, matmul_dtype, weight, needs_gradient) -> "_Chunks":
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        x, w = features.to(matmul_dtype), projection.to(matmul_dtype)
        chunks = _Chunks(x, w, target, signal, objective, weight, needs_gradient)
        for start in range(0, features.size(0), chunks.chunk_rows):
            chunks.add(start, min(start + chunks.chunk_rows, features.size(0)))
        chunks.finish()
    return chunks


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, projection, target, signal, objective, matmul_dtype, weight):
        chunks = _run(features, projection, target, signal, objective, matmul_dtype, weight, needs_gradient=True)
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
    """The chunks of a batch, one after the other: the buffers, the values and the gradients."""

    def __init__(self, features, projection, target, signal, objective, weight, needs_gradient):
        self.x, self.w, self.target, self.signal, self.objective = features, projection, target, signal, objective
        self.needs_gradient, vocabulary = needs_gradient, projection.size(0)
        self.dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        self.weight = None if weight is None else weight.to(self.dtype)
        self.chunk_rows = rows_at_a_time(features.device, vocabulary)
        self.buffers, self.values = {}, []
        self.gold_gradient = gold_gradient(objective, target, vocabulary, self.dtype, signal is not None)
        if needs_gradient:
            self.d_features = self._empty(*features.shape)
            self.d_projection = self._empty(*projection.shape).zero_()
        self._prepare()

    def _prepare(self):
        """What needs the features in the type of the computations: terms of label smoothing and of the tail shapes."""
        signal, objective, divergence = self.signal, self.objective, self.objective.divergence
        top_k_class = divergence.fused_top_k if isinstance(signal, TopKSignal) else None
        self.by_autograd = signal is not None and not (
            (isinstance(signal, TopKSignal) and not divergence.needs_vocabulary)
            or (isinstance(signal, WholeSignal) and divergence.fused_dense is not None)
        )
        self.terms = top_k_class(signal, objective, self.dtype) if top_k_class else None
        untempered = objective.student_temperature == 1
        self.stays_narrow = pads(self.x) and (signal is None or (self.terms is not None and untempered))
        if self.stays_narrow:  # twice the rows are as many bytes as in float32
            self.chunk_rows *= 2
        self.each = objective.label_smoothing / (self.w.size(0) - 1)
        self.z_sum = None
        if not self.each and (self.terms is None or self.terms.shapes is None):
            return
        wide = self.x
        if wide.dtype != self.dtype:  # the buffer of dX is not used yet
            wide = self.d_features.copy_(self.x) if self.needs_gradient else self.x.to(self.dtype)
        if self.terms is not None:
            self.terms.see_student(wide, self.w, self.weight, self.needs_gradient)
        if self.each:
            self.w_sum = self.w.sum(dim=0, dtype=self.dtype)
            self.z_sum = wide @ self.w_sum
            self.smoothing = self._smoothing()
            self.x_sum = self.smoothing @ wide

    def _smoothing(self):
        """What label smoothing takes from every column of the gradient, (N,)."""
        weight = self.each * (1 if self.signal is None else 1 - self.objective.kd_weight)
        weight = 0.0 if self.by_autograd else weight
        return (1.0 if self.weight is None else self.weight) * (torch.zeros_like(self.z_sum) + weight)

    def _empty(self, *shape):
        return torch.empty(shape, dtype=self.dtype, device=self.x.device)

    def _buffer(self, name, rows, dtype=None):
        """An array (rows, V) that is kept for the next chunk."""
        if name not in self.buffers:
            most = padded_rows(min(self.chunk_rows, self.x.size(0)))
            self.buffers[name] = torch.empty(most, self.w.size(0), dtype=dtype or self.dtype, device=self.x.device)
        return self.buffers[name][:rows]

    def add(self, start, end):
        """Values and gradient of the rows from start to before end."""
        rows, x = slice(start, end), self.x[start:end]
        narrow = None
        if pads(x):
            x = narrowed(x) if len(x) < self.chunk_rows else x
            narrow = self._buffer("half", len(x), x.dtype)
        if self.stays_narrow:  # the logits become the gradient in bfloat16, in which the products need both
            z = torch.mm(x, self.w.t(), out=narrow)[: end - start]
        else:
            z = multiply(x, self.w.t(), self._buffer("z", end - start), narrow)
        chunk = Chunk(z, self.target[rows], self.gold_gradient[rows], lambda number: self._buffer(number, end - start))
        self.values.append(self._values(chunk, start, end))
        if self.needs_gradient:
            self._multiply(z, x, start, end)

    def _values(self, chunk, start, end) -> Values:
        objective, signal = self.objective.part(start, end), self.signal
        if signal is None:
            return gold_only(chunk)
        if self.by_autograd:
            return by_autograd(chunk, objective, signal.part(start, end))
        if isinstance(signal, WholeSignal):
            return objective.divergence.fused_dense(chunk, objective, signal, start, end)
        return top_k(chunk, objective, signal.part(start, end), self.terms and self.terms.of_rows(start, end))

    def _multiply(self, z, x, start, end):
        """dX = G W, dW += Gᵀ x, for the gradient G of the logits: z, times the weights of the rows."""
        d_features = self.d_features[start:end]
        weight = None if self.weight is None else self.weight[start:end].unsqueeze(1)
        if x.dtype == torch.float16:
            self._multiply_scaled(z if weight is None else z.mul_(weight), x, d_features)
            return
        gradient = z if x.dtype == self.dtype else self._buffer("half", len(x), x.dtype)
        if weight is not None:
            torch.mul(z, weight, out=gradient[: len(z)])
        elif z.dtype != x.dtype:
            gradient[: len(z)].copy_(z)
        gradient[len(z) :].zero_()
        multiply(gradient, self.w, d_features)
        accumulate(self.d_projection, gradient.t(), x)

    def _multiply_scaled(self, z, x, d_features):
        """The same in float16, scaled so that small values are kept. The scale is a tensor: no wait for CUDA."""
        scale = LARGEST_HALF / torch.linalg.vector_norm(z, float("inf")).clamp(min=1e-6)
        gradient = torch.mul(z, scale, out=self._buffer("half", len(z), x.dtype))
        multiply(gradient, self.w, d_features).div_(scale)
        self.d_projection.addcdiv_(multiply(gradient.t(), x, self._empty(*self.w.shape)), scale)

    def finish(self):
        """The sums of the values; and the parts of the gradient that come from label smoothing and tail shapes."""
        values = self._all_values()
        loss = losses_of(values, self.objective, self.z_sum, self.w.size(0))
        if self.needs_gradient and self.weight is not None:
            self.d_weight = loss
        loss = loss if self.weight is None else weighted(self.weight, loss)
        logged = [loss, values.lse - values.z_gold, values.z_gold >= values.best]
        if self.signal is not None:
            logged += [values.kd, values.z_taught >= values.best]
        self.sums = [each.sum(dtype=self.dtype) for each in logged]
        if not self.needs_gradient:
            return
        if self.each:
            self.d_features.addr_(self.smoothing, self.w_sum, alpha=-1)
            self.d_projection -= self.x_sum  # the same row for every entry
        if self.terms is not None:
            self.terms.add_gradient(self.d_features, self.d_projection)

    def _all_values(self) -> Values:
        if not self.values:
            none = self._empty(0)
            return Values(none, none, none, *(() if self.signal is None else (none, none)))
        values = Values(*(None if part[0] is None else torch.cat(part) for part in zip(*self.values, strict=True)))
        return values if self.terms is None else values._replace(kd=self.terms.divergence())

    def gradients(self) -> list:
        """The gradients by features, projection and, if there is one, weight."""
        return [self.d_features, self.d_projection] + ([] if self.weight is None else [self.d_weight])
