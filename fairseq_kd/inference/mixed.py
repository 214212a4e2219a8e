"""Several frozen models that answer as one: by the mixture of their distributions."""

import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.frozen import FrozenModel
from fairseq_kd.loss.mixture import MixtureSignal, gold_lprobs
from fairseq_kd.loss.weights import NLL, Weighting


class MixedModels:
    """The mixture p = Σ_k w_k p_k of frozen models with the same dictionaries. It answers as a `FrozenModel` does."""

    def __init__(self, members: list[FrozenModel], weighting: Weighting):
        """members: one that stands several times in the list runs once. Raises KDError as `recorded_nll`."""
        self.members, self.weighting = members, weighting
        nll = [recorded_nll(member) for member in members] if weighting.kind == NLL else None
        self.log_weights = None if weighting.needs_gold else weighting.fixed(len(members), nll)  # (K,)

    @property
    def max_positions(self) -> tuple[int, int]:
        """Longest source and target, in tokens with EOS, that all members accept."""
        sources, targets = zip(*(member.max_positions for member in self.members), strict=True)
        return min(sources), min(targets)

    @torch.no_grad()
    def signal(self, sample, keep: torch.Tensor) -> MixtureSignal:
        """Distributions over the next token at the N target positions where `keep` (B, T) is true.

        Weights that depend on the gold tokens are of the target of the sample. Raises KDError as a member does.
        """
        signals = {member: member.signal(sample, keep) for member in dict.fromkeys(self.members)}
        parts = tuple(signals[member] for member in self.members)
        if self.log_weights is not None:
            return MixtureSignal(parts, self.log_weights.to(keep.device))
        gold = sample["target"][keep]
        lprobs = torch.stack([gold_lprobs(part, gold) for part in parts], dim=1)  # (N, K)
        return MixtureSignal(parts, self.weighting.of_tokens(lprobs, keep))


def recorded_nll(member: FrozenModel) -> float:
    """The validation nll that the checkpoint of a model records, in nats per token. Raises KDError when it has none."""
    if member.validation_nll is None:
        raise KDError(
            f"--teacher-weights nll needs the validation nll of each teacher, and {member.path} does not record it: "
            "its training had another --best-checkpoint-metric than nll_loss, ppl or a loss without label smoothing, "
            "or it was not validated. Give the weights as numbers, such as --teacher-weights 2:1"
        )
    return member.validation_nll
