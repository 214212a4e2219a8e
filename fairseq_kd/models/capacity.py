"""The target for the number of parameters that a student keeps, and the penalty that holds the student at this target.

    penalty = λ1 · (s - t) + λ2 · (s - t)²

s is the expected share of the parameters whose gates are not closed (parameters without a gate always count), and t is
the target share. The student minimises the penalty with its loss, while gradient ascent moves λ1 and λ2: each update
adds a rate times (s - t) to λ1, and a rate times (s - t)² to λ2. On request t falls linearly from 1 to the target. The
method is from Wang et al. 2020, "Structured Pruning of Large Language Models" (arXiv 1910.04732), section 3, with one
change: λ2 does not begin at 0, because with λ1 alone the size oscillates around the target.

λ1 and λ2 are numbers that this class changes, not parameters, because fairseq's optimizers only descend, with the
student's learning rate, and fp16 would round them. They depend only on gates and updates, so they are equal on all
ranks.
"""

import math

import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.device import to_device
from fairseq_kd.models.gates import SPEED, HardConcreteGate, fixed_values, open_probability

INITIAL_LAMBDA2 = 50.0  # nats per token


class Capacity:
    """Draws the gates of each update, computes the expected size, and moves λ1 and λ2. Not a module."""

    def __init__(self, gates: dict[str, tuple[HardConcreteGate, int]], total: int, options: "CapacityOptions"):
        """gates: layer part -> (its gates, parameters behind each gate). total: parameters with all gates open."""
        self.gates = {name: gate for name, (gate, _) in gates.items()}
        self.total, self.options = total, options
        columns = [torch.full((len(gate.score),), float(cost), device="cpu") for gate, cost in gates.values()]
        self.costs = torch.cat(columns)
        self._sizes = [len(column) for column in columns]
        self._on_device = {}  # by device: costs, and (parts, gates), 1 where a gate is in a part
        fixed = total - int(self.costs.sum().item())
        self.target = target_share(options.target, total, fixed)
        self.multipliers = torch.tensor([0.0, INITIAL_LAMBDA2], dtype=torch.float64, device="cpu")
        self.update = -1  # the last update that moved λ1 and λ2

    def begin(self, update: int) -> None:
        """Draw the gates of an update, and move λ1 and λ2 once per update.

        The generator's seed only depends on the update and --seed. So the gates are equal on all ranks, in all batches
        of --update-freq and in a resumed training, and dropout draws the same numbers as without gates.
        """
        if update < self.options.warmup:
            return
        if update >= self.options.freeze:
            return self.freeze(update)
        generator = torch.Generator().manual_seed((self.options.seed << 32) + update)
        uniform = torch.rand(len(self.costs), generator=generator).clamp(1e-6, 1 - 1e-6)
        noise = to_device(torch.logit(uniform).numpy(), self._device())
        for gate, drawn in zip(self.gates.values(), noise.split(self._sizes), strict=True):
            gate.noise = drawn
        if update > self.update:
            excess = self.expected_share().detach().double() - self.target_at(update)  # on the device: no wait for it
            change = self.options.rate * torch.stack([excess, excess**2])
            self.multipliers = self.multipliers.to(change.device) + change
            self.update = update

    def _device(self) -> torch.device:
        return next(iter(self.gates.values())).score.device

    def _all(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(log α, decided) of all gates, in the order of the layer parts."""
        gates = self.gates.values()
        scores, decided = torch.cat([gate.score.float() for gate in gates]), torch.cat([gate.decided for gate in gates])
        return SPEED * scores, decided

    def _constants(self, device) -> tuple[torch.Tensor, torch.Tensor]:
        if device not in self._on_device:
            parts = torch.block_diag(*(torch.ones(1, size) for size in self._sizes))
            self._on_device[device] = self.costs.to(device), parts.to(device)
        return self._on_device[device]

    @torch.no_grad()
    def freeze(self, update: int) -> None:
        """Fix all gates, once: open the gates with the highest scores as far as the target allows, close the others."""
        if self.update < self.options.freeze:
            gates = self.gates.values()
            order = self._all()[0].cpu().argsort(descending=True, stable=True)
            room = self.target * self.total - (self.total - self.costs.sum())
            opened = torch.empty(len(order), dtype=torch.int8)
            opened[order] = (self.costs[order].cumsum(0) <= room).to(torch.int8)
            for gate, decided in zip(gates, opened.split(self._sizes), strict=True):
                gate.decided.copy_(decided)
                gate.noise = None
        self.update = update

    def target_at(self, update: int) -> float:
        """The target share at an update after the warm-up."""
        progress = min(1.0, (update - self.options.warmup) / self.options.ramp) if self.options.ramp else 1.0
        return 1.0 + progress * (self.target - 1.0)

    def expected_share(self) -> torch.Tensor:
        """s, the expected share of the parameters; a scalar with gradient."""
        return self._share(open_probability(*self._all()))

    def _share(self, opened: torch.Tensor) -> torch.Tensor:
        return 1 - ((1 - opened) * self._constants(opened.device)[0]).sum() / self.total

    def penalty(self) -> torch.Tensor | None:
        """A scalar with gradient, in nats per token as the mean loss; None in the warm-up and after `freeze`."""
        if not self.options.warmup <= self.update < self.options.freeze:
            return None
        excess = self.expected_share() - self.target_at(self.update)
        first, second = self.multipliers.to(excess).unbind()
        return first * excess + second * excess**2

    def report(self) -> dict[str, float]:
        """The values of `logged`, as numbers."""
        return {name: value.item() for name, value in self.logged().items()}

    @torch.no_grad()
    def logged(self) -> dict[str, torch.Tensor]:
        """The values to log, as 0-d tensors: on CUDA only what is printed waits for the device.

        capacity: s. capacity_parameters: the expected number of parameters. capacity_kept: the share that `fairseq-kd
        compact` would keep now. capacity_lambda1, capacity_lambda2: λ1 and λ2. open_...: the expected number of open
        gates in a part of a layer.
        """
        gates = self._all()
        opened = open_probability(*gates)
        share, kept = self._share(opened), self._share((fixed_values(*gates) != 0).float())
        found = {"capacity": share, "capacity_parameters": share * self.total, "capacity_kept": kept}
        found |= dict(zip(("capacity_lambda1", "capacity_lambda2"), self.multipliers.unbind(), strict=True))
        counts = (self._constants(opened.device)[1] * opened).sum(dim=1)
        return found | {f"open_{name}": count for name, count in zip(self.gates, counts.unbind(), strict=True)}


class CapacityOptions:
    """--capacity-target, -warmup, -ramp, -freeze, -lr, and --seed; see `adaptive.CAPACITY_OPTIONS`.

    Raises KDError on construction for values out of range.
    """

    def __init__(self, target: float | None, warmup=0, ramp=0, freeze: int | None = None, rate=0.1, seed=1):
        self.target, self.warmup, self.ramp, self.rate, self.seed = target, warmup, ramp, rate, seed
        self.freeze = math.inf if freeze is None else freeze
        if target is None:
            raise KDError(
                "a kd_adaptive student needs --capacity-target: the share of its parameters to keep, such as 0.5, or "
                "their number; for a student of fixed size give --arch kd_student"
            )
        if not target > 0 or math.isinf(target):
            raise KDError(f"--capacity-target {target}: must be a share in (0, 1] or a number of parameters above 1")
        for option, value in (("--capacity-warmup", warmup), ("--capacity-ramp", ramp)):
            if value < 0:
                raise KDError(f"{option} {value}: must be a number of updates, at least 0")
        if not self.freeze > warmup + ramp:
            raise KDError(
                f"--capacity-freeze {freeze}: must be above --capacity-warmup + --capacity-ramp, here {warmup + ramp}"
            )
        if not 0 < rate < math.inf:
            raise KDError(f"--capacity-lr {rate}: must be a number above 0")


def target_share(target: float, total: int, fixed: int) -> float:
    """The target as a share of `total` parameters; `fixed` of them have no gate.

    Raises KDError for a number of parameters above the model's, and for a target that gates cannot reach.
    """
    share = target if target <= 1 else target / total
    if share > 1:
        raise KDError(
            f"--capacity-target {target:,.0f} is more than the {total:,} parameters of the model with all gates open: "
            "give a larger --arch or a smaller target"
        )
    if share * total < fixed:
        raise KDError(
            f"--capacity-target {target:g} is {share * total:,.0f} parameters, but {fixed:,} of {total:,} (embeddings, "
            f"norms, biases) have no gate: give a target above {fixed / total:.3f}"
        )
    return share
