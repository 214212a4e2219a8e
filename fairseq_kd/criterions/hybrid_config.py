"""The options of kd_hybrid and their checks, and the weight g of the token level: scheduled or learned."""

import math
from dataclasses import dataclass, field, fields
from typing import Optional

import torch
from fairseq.dataclass import ChoiceEnum

from fairseq_kd.core.errors import KDError
from fairseq_kd.criterions.config import KDWordConfig, check_options
from fairseq_kd.criterions.no_effect import refuse
from fairseq_kd.criterions.schedule import of_each_part


def scheduled(start: float, end: float, updates: int, update: int) -> float:
    """g at an update (0 is the first): linear from `start` to `end`, which it reaches after `updates` updates."""
    return start + (end - start) * min(update / updates, 1.0)


class LearnedGate(torch.nn.Module):
    """g = sigmoid(w · h + b), where h is the mean of the encoder's output over a source sentence (Wei et al. 2024).

    The encoder's output is detached: the two weighted losses train the encoder, but the encoder does not learn to make
    the gate prefer the smaller loss. The initial w is 0, and the initial b makes every g equal to `start`.

    The gate can also lower the loss by preferring the target that is easier to fit. This need not be the better target,
    and it does not depend on the sentence. So watch the logged mean of g.
    """

    def __init__(self, width: int, start: float):
        """width: of the encoder's output; start: above 0 and below 1."""
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(width))
        self.bias = torch.nn.Parameter(torch.tensor([math.log(start / (1 - start))]))

    def forward(self, states: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        """g (B,), float32, from the encoder's output (S, B, d) and its padding mask (B, S); None: no padding."""
        states = states.detach().float()
        with torch.autocast(states.device.type, enabled=False):
            if padding is None:
                mean = states.mean(dim=0)  # (B, d)
            else:
                real = (~padding).t().unsqueeze(-1)  # (S, B, 1)
                mean = (states * real).sum(dim=0) / real.sum(dim=0)
            return torch.sigmoid(mean @ self.weight.float() + self.bias.float())


@dataclass
class KDHybridConfig(KDWordConfig):
    """Options of kd_hybrid, in addition to the options of kd_word, which apply to the gold target."""

    hybrid_gate: ChoiceEnum(("constant", "schedule", "learned")) = field(
        default="constant",
        metadata={
            "help": "weight g of the token level. constant: --hybrid-weight for every sentence; schedule: linear over "
            "the updates; learned: one weight per sentence, computed from the student's encoder output"
        },
    )
    hybrid_weight: float = field(
        default=0.5,
        metadata={
            "help": "weight g of the token level (gold target and teacher), 0 to 1; the sentence level (distilled "
            "target) has the weight 1 - g. For a schedule and a learned gate it is the initial weight"
        },
    )
    hybrid_weight_end: Optional[float] = field(
        default=None,
        metadata={"help": "with --hybrid-gate schedule: g at the end of the schedule and afterwards, 0 to 1"},
    )
    hybrid_schedule_updates: Optional[int] = field(
        default=None,
        metadata={"help": "with --hybrid-gate schedule: number of updates from the initial g to the final g"},
    )


DEFAULTS = {field.name: field.default for field in fields(KDHybridConfig)}


@of_each_part
def check_hybrid_options(cfg) -> None:
    """Raises KDError for the first option that is out of range or would have no effect."""
    check_options(cfg, gold_only=False)
    for name in ("hybrid_weight", "hybrid_weight_end"):
        value = getattr(cfg, name)
        if value is not None and not 0 <= value <= 1:
            raise KDError(
                f"--{name.replace('_', '-')} {value}: must be from 0 (sentence level only) to 1 (token level only)"
            )
    if str(cfg.hybrid_gate) == "schedule":
        _check_schedule(cfg)
    else:
        refuse(cfg, ("hybrid_weight_end", "hybrid_schedule_updates"), "without --hybrid-gate schedule", DEFAULTS)
    if str(cfg.hybrid_gate) == "learned" and cfg.hybrid_weight in (0, 1):
        raise KDError(
            f"--hybrid-weight {cfg.hybrid_weight} with --hybrid-gate learned: a gate with this initial weight cannot "
            "change; give a weight between 0 and 1"
        )


def _check_schedule(cfg) -> None:
    if cfg.hybrid_weight_end is None or cfg.hybrid_schedule_updates is None:
        raise KDError(
            "--hybrid-gate schedule needs --hybrid-weight-end (0 to 1) and --hybrid-schedule-updates (a number)"
        )
    if cfg.hybrid_schedule_updates < 1:
        raise KDError(f"--hybrid-schedule-updates {cfg.hybrid_schedule_updates}: must be at least 1 update")
    if cfg.hybrid_weight_end == cfg.hybrid_weight:
        raise KDError(
            f"--hybrid-gate schedule has no effect from --hybrid-weight {cfg.hybrid_weight} to the same "
            "--hybrid-weight-end: use --hybrid-gate constant"
        )
