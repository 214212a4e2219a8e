"""`--arch kd_adaptive_3m` ... : a student that learns which heads and channels it keeps, for any criterion.

How the penalty of `capacity` reaches the loss. fairseq's trainer calls criterion(model, sample) and divides the summed
gradients of all batches and ranks by the summed sample size, which the criterion alone knows; --fp16 and --amp multiply
the loss of the criterion before the backward pass, by a factor that the optimizer alone knows. So neither a gradient
added during the backward pass nor a module at the end of the decoder can have the right scale. What can is the loss:

    loss -> loss + sample_size · penalty        (sum over batches and ranks / summed sample size = mean loss + penalty)

`set_num_updates`, which fairseq's tasks call before each call of the criterion in training, sets a hook of torch that
waits for the criterion's result, changes the first of (loss, sample size, logging output) and goes. (The forward pass
would be too late to set it: torch has decided by then that the call of the criterion has no hooks.) The logged loss
stays the criterion's own; criterions, tasks and trainer are stock.
"""

import logging

import torch
from fairseq.criterions import FairseqCriterion
from fairseq.logging import metrics
from fairseq.models import register_model
from torch.nn.modules.module import register_module_forward_hook

from fairseq_kd.core.errors import KDError, exit_on_user_error
from fairseq_kd.inference.supported import unwrapped
from fairseq_kd.models.capacity import Capacity, CapacityOptions
from fairseq_kd.models.count import parameter_count
from fairseq_kd.models.gates import GATE_STATE, GatedLinear
from fairseq_kd.models.layers import GATED
from fairseq_kd.models.student import KDStudentModel, register_ladder
from fairseq_kd.models.sublayers import HeadAttention, linears_of

logger = logging.getLogger(__name__)
CAPACITY_OPTIONS = (
    ("capacity_target", float, "share of the parameters to keep, in (0, 1], or their number, above 1"),
    ("capacity_warmup", int, "updates with all gates open, before any gate is drawn (default 0)"),
    (
        "capacity_ramp",
        int,
        "updates after that, in which the target goes from all parameters to --capacity-target (default 0: at once)",
    ),
    (
        "capacity_freeze",
        int,
        "update at which gates are decided: those of the highest scores, as many as --capacity-target has room for, "
        "stay open, the others are closed, and from then on nothing is drawn or penalised (default: never)",
    ),
    ("capacity_lr", float, "learning rate of the two Lagrange multipliers (default 0.1)"),
)
DEFAULTS = {"capacity_target": None, "capacity_warmup": 0, "capacity_ramp": 0, "capacity_freeze": None}
DEFAULTS |= {"capacity_lr": 0.1, "seed": 1}
PARTS = {"self_attn": "self_heads", "encoder_attn": "cross_heads", "fc2": "channels"}


@register_model("kd_adaptive")
class KDAdaptiveModel(KDStudentModel):
    """A student with a gate on each channel of its feed-forward networks and on each attention head."""

    @classmethod
    def add_args(cls, parser):
        """Those of a student, and those of the capacity."""
        super().add_args(parser)
        for name, kind, text in CAPACITY_OPTIONS:
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
        parser.add_argument("--capacity-gates", choices=("both", *GATED), help="what carries gates (default both)")

    @classmethod
    def gated(cls, cfg) -> frozenset[str]:
        """What --capacity-gates says."""
        chosen = getattr(cfg, "capacity_gates", None) or "both"
        return frozenset(GATED if chosen == "both" else [chosen])

    @classmethod
    def build_model(cls, args, task):
        """What fairseq calls. A user error ends the process with status 2."""
        model = super().build_model(args, task)
        with exit_on_user_error():
            if getattr(args, "ddp_backend", None) == "fully_sharded":
                raise KDError("--ddp-backend fully_sharded hides the gates from their penalty: take another one")
            values = (getattr(args, name, default) for name, default in DEFAULTS.items())
            model.set_capacity(CapacityOptions(*values))
        return model

    def set_capacity(self, options: CapacityOptions) -> None:
        """Hold the model at a target. Raises KDError for one out of reach."""
        gates = dict(gated_parts(self))
        self.capacity = Capacity(gates, parameter_count(self, gates=False), options)
        self._waiting = None  # the handle of the hook

    def set_num_updates(self, num_updates):
        """fairseq tells it before each forward pass in training."""
        super().set_num_updates(num_updates)
        self.capacity.begin(num_updates)
        await_criterion(self)
        for name, value in self.capacity.report().items():
            metrics.log_scalar(name, value, weight=0, priority=900, round=1 if name.startswith("open") else 4)

    def get_extra_state(self):
        """λ1, λ2 and their update, in double precision: a buffer would be rounded with the model's dtype."""
        return torch.cat([self.capacity.multipliers, self.capacity.multipliers.new_tensor([self.capacity.update])])

    def set_extra_state(self, state):
        """Go on as if there had been no pause: the next update draws its gates and climbs from here."""
        self.capacity.multipliers, self.capacity.update = state[:2].double().cpu().clone(), int(state[2])

    def upgrade_state_dict_named(self, state_dict, name):
        """A student without gates (--finetune-from-model) gets open ones."""
        super().upgrade_state_dict_named(state_dict, name)
        own = {key: value for key, value in self.state_dict().items() if key.endswith((*GATE_STATE, "_extra_state"))}
        missing = own.keys() - state_dict.keys()
        if missing == own.keys():
            logger.info(f"the checkpoint has no gates: {len(missing) // 2} rows of them begin open")
            state_dict.update(own)


def gated_parts(model):
    """Yield (name such as encoder.0.channels, (gates, parameters behind one of them)) in the order of the layers."""
    for side in ("encoder", "decoder"):
        for number, layer in enumerate(getattr(model, side).layers):
            for attribute, part in PARTS.items():
                module = getattr(layer, attribute, None)
                name = f"{side}.{number}.{part}"
                if isinstance(module, HeadAttention) and isinstance(module.out_proj, GatedLinear) and module.num_heads:
                    yield name, (module.out_proj.gates, module.parameters_of_a_head)
                elif isinstance(module, GatedLinear):
                    yield name, (module.gates, parameters_of_a_channel(layer))


def parameters_of_a_channel(layer) -> int:
    """Weights and biases that go with one channel of a layer's feed-forward network."""
    return sum(linear.in_features + 1 for linear in linears_of(layer.fc1)) + layer.fc2.out_features


def await_criterion(model: KDAdaptiveModel) -> None:
    """Add the penalty to the loss of the next criterion that is called with the model in training."""
    stop_waiting(model)  # of a call that never came

    def add_penalty(module, inputs, output):
        if not isinstance(module, FairseqCriterion) or not inputs or unwrapped(inputs[0]) is not model:
            return None
        loss, sample_size, logging_output = output
        if not model.training or not loss.requires_grad or loss.dim() > 0:  # of each token: nobody trains on that
            return None
        stop_waiting(model)
        penalty = model.capacity.penalty()
        return None if penalty is None else (loss + sample_size * penalty, sample_size, logging_output)

    model._waiting = register_module_forward_hook(add_penalty)


def stop_waiting(model: KDAdaptiveModel) -> None:
    """Take the hook away."""
    if model._waiting is not None:
        model._waiting.remove()
        model._waiting = None


register_ladder("kd_adaptive")
