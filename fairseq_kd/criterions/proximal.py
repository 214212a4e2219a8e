"""`--proximal-mu`: the proximal term of FedProx (Li et al. 2018, arXiv 1812.06127, equation 2), for the client.

    loss per unit of the sample size + μ/2 · ‖w - w_t‖²

w are the trainable parameters of the student, w_t the weights of the round, in a checkpoint. fairseq adds the gradients
of all ranks and batches of an update, and divides the sum by the sum of their sample sizes. So the term of a batch is
multiplied by its sample size, and one update has the gradient of the term once.
"""

import math
from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq.logging import metrics

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.on_policy_config import OnPolicyConfig, check_word_options
from fairseq_kd.inference.checkpoint import read_checkpoint

WRAPPER = "module."  # the prefix of DistributedDataParallel


@dataclass
class ProximalConfig(OnPolicyConfig):
    """All options of kd_word: those of `OnPolicyConfig`, and those of the proximal term."""

    proximal_mu: float = field(
        default=0.0,
        metadata={
            "help": "weight μ of the proximal term μ/2 · |w - w_t|² of FedProx, 0 or above; w_t are the weights of "
            "--proximal-weights"
        },
    )
    proximal_weights: Optional[str] = field(
        default=None,
        metadata={"help": "checkpoint with the weights w_t of --proximal-mu: the global model of the round"},
    )


def check_proximal_options(cfg) -> None:
    """Check all options of kd_word. Raises KDError for the first one that is out of range or would have no effect.

    --proximal-mu 0 with weights is allowed: a server that sends μ can send 0, and then there is no term.
    """
    check_word_options(cfg)
    if not 0 <= cfg.proximal_mu < math.inf:
        raise KDError(f"--proximal-mu {cfg.proximal_mu}: must be 0 (no proximal term) or above")
    if cfg.proximal_mu > 0 and cfg.proximal_weights is None:
        raise KDError(
            f"--proximal-mu {cfg.proximal_mu} needs --proximal-weights CHECKPOINT: the weights from which the student "
            "is to stay near"
        )


class ProximalTerm:
    """The term of one training. It is not a module, so its weights are in no checkpoint."""

    def __init__(self, mu: float, path: str):
        """mu: above 0. path: the checkpoint, which is read at the first batch of the training."""
        self.mu, self._path, self._weights = mu, path, None

    @classmethod
    def of(cls, cfg) -> "ProximalTerm | None":
        """The term that the options of a criterion ask for; None for μ = 0 and for criterions without the options."""
        mu = getattr(cfg, "proximal_mu", 0.0)
        return cls(mu, cfg.proximal_weights) if mu > 0 else None

    def value(self, model) -> torch.Tensor:
        """μ/2 · ‖w - w_t‖², 0-d, in float32 or in the type of the parameters where that is float64.

        Raises KDError when the checkpoint has no weight of a parameter's shape.
        """
        trainable = {name: weight for name, weight in _named_parameters(model) if weight.requires_grad}
        if self._weights is None:
            self._weights = self._read(trainable)
        device = next(iter(trainable.values())).device.type
        with torch.autocast(device, enabled=False):
            squares = [(_wide(w) - self._weights[name]).square().sum() for name, w in trainable.items()]
            return self.mu / 2 * torch.stack(squares).sum()

    def _read(self, trainable: dict) -> dict:
        found, weights = read_checkpoint(self._path)["model"], {}
        for name, weight in trainable.items():
            value = found.get(name)
            if value is None or value.shape != weight.shape:
                has = "none" if value is None else f"one of shape {tuple(value.shape)}"
                raise KDError(
                    f"--proximal-weights {self._path}: the student has a {name} of shape {tuple(weight.shape)}, and "
                    f"the checkpoint has {has}: give the weights with which the student begins"
                )
            weights[name] = value.to(weight.device, _wide(weight).dtype)
        return weights

    def add_to(self, model, loss: torch.Tensor, sample_size) -> tuple[torch.Tensor, dict]:
        """(the loss of a batch with the term, what is logged: the term, multiplied by the sample size as the loss).

        In validation, and for a loss per position, the term is left out.
        """
        if not model.training or loss.dim() > 0:
            return loss, {}
        term = self.value(model) * sample_size
        return loss + term.to(loss.dtype), {"proximal_loss": term.data}


def log_proximal(logging_outputs) -> None:
    """Log proximal_loss, in the unit of the loss (bits per token, or per sentence with --sentence-avg)."""
    if any("proximal_loss" in log for log in logging_outputs):
        size = sum(log["sample_size"] for log in logging_outputs)
        if size > 0:
            total = sum(log.get("proximal_loss", 0) for log in logging_outputs)
            metrics.log_scalar("proximal_loss", total / size / math.log(2), size, round=3)


def _named_parameters(model):
    for name, weight in model.named_parameters():
        while name.startswith(WRAPPER):
            name = name[len(WRAPPER) :]
        yield name, weight


def _wide(weight: torch.Tensor) -> torch.Tensor:
    """The tensor in float32, or as it is in float64: squares of small differences underflow in 16 bits."""
    return weight if weight.dtype == torch.float64 else weight.float()
