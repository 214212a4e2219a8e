"""`--arch kd_adaptive_3m` and so on: a student that learns which heads and channels it keeps, with any criterion.

How the penalty of `capacity` reaches the loss. fairseq's trainer calls criterion(model, sample) and divides the summed
gradients of all batches and ranks by the summed sample size, which only the criterion knows. --fp16 and --amp multiply
the loss of the criterion before the backward pass by a factor that only the optimizer knows. So a gradient that is
added during the backward pass cannot have the right scale, and neither can a module at the end of the decoder. The loss
can have it:

    loss -> loss + sample_size · penalty        (sum over batches and ranks / summed sample size = mean loss + penalty)

fairseq's tasks call `set_num_updates` before each call of the criterion in training. It registers a hook of torch that
changes the first value of the criterion's next result (loss, sample size, logging output) and then removes itself. (The
forward pass would be too late, because torch has then already decided that the call of the criterion has no hooks.) The
logged loss is still the criterion's loss. Criterions, tasks and trainer are stock.
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
from fairseq_kd.models.student import KDStudentModel, register_sizes
from fairseq_kd.models.sublayers import HeadAttention, linears_of

logger = logging.getLogger(__name__)
CAPACITY_OPTIONS = (
    ("capacity_target", float, "share of the parameters to keep, in (0, 1], or their number, above 1"),
    ("capacity_warmup", int, "updates with all gates open before the first gate is drawn (default 0)"),
    (
        "capacity_ramp",
        int,
        "updates after the warm-up in which the target falls from all parameters to --capacity-target (default 0)",
    ),
    (
        "capacity_freeze",
        int,
        "update at which the gates are fixed: the gates with the highest scores stay open, as many as "
        "--capacity-target allows, and the others are closed; then no gate is drawn or penalised (default: never)",
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
        """Add the options of a student and of the capacity."""
        super().add_args(parser)
        for name, kind, text in CAPACITY_OPTIONS:
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
        parser.add_argument("--capacity-gates", choices=("both", *GATED), help="which parts have gates (default both)")

    @classmethod
    def gated(cls, cfg) -> frozenset[str]:
        """The parts with gates, from --capacity-gates."""
        chosen = getattr(cfg, "capacity_gates", None) or "both"
        return frozenset(GATED if chosen == "both" else [chosen])

    @classmethod
    def build_model(cls, args, task):
        """Build the model for fairseq. A user error ends the process with status 2."""
        model = super().build_model(args, task)
        with exit_on_user_error():
            if getattr(args, "ddp_backend", None) == "fully_sharded":
                raise KDError(
                    "--ddp-backend fully_sharded hides the gates from their penalty: give another --ddp-backend"
                )
            values = (getattr(args, name, default) for name, default in DEFAULTS.items())
            model.set_capacity(CapacityOptions(*values))
        return model

    def set_capacity(self, options: CapacityOptions) -> None:
        """Set the target size of the model. Raises KDError for a target that gates cannot reach."""
        gates = dict(gated_parts(self))
        self.capacity = Capacity(gates, parameter_count(self, gates=False), options)
        self._waiting = None  # the handle of the hook

    def set_num_updates(self, num_updates):
        """fairseq calls this before each forward pass in training."""
        super().set_num_updates(num_updates)
        self.capacity.begin(num_updates)
        await_criterion(self)
        for name, value in self.capacity.logged().items():
            metrics.log_scalar(name, value, weight=0, priority=900, round=1 if name.startswith("open") else 4)

    def get_extra_state(self):
        """λ1, λ2 and their update, in double precision: a buffer would be rounded with the model's dtype."""
        multipliers = self.capacity.multipliers.cpu()
        return torch.cat([multipliers, multipliers.new_tensor([self.capacity.update])])

    def set_extra_state(self, state):
        """Continue as if the training had not stopped: the next update draws its gates and moves λ1 and λ2."""
        self.capacity.multipliers, self.capacity.update = state[:2].double().cpu().clone(), int(state[2])

    def upgrade_state_dict_named(self, state_dict, name):
        """Add open gates to the weights of a student without gates (--finetune-from-model)."""
        super().upgrade_state_dict_named(state_dict, name)
        own = {key: value for key, value in self.state_dict().items() if key.endswith((*GATE_STATE, "_extra_state"))}
        missing = own.keys() - state_dict.keys()
        if missing == own.keys():
            logger.info(f"the checkpoint has no gates: all gates begin open, in {len(missing) // 2} layer parts")
            state_dict.update(own)


def gated_parts(model):
    """Yield (name such as encoder.0.channels, (gates, parameters behind each gate)) in the order of the layers."""
    for side in ("encoder", "decoder"):
        for number, layer in enumerate(getattr(model, side).layers):
            for attribute, part in PARTS.items():
                module = getattr(layer, attribute, None)
                name = f"{side}.{number}.{part}"
                if isinstance(module, HeadAttention) and isinstance(module.out_proj, GatedLinear) and module.num_heads:
                    yield name, (module.out_proj.gates, module.parameters_per_head)
                elif isinstance(module, GatedLinear):
                    yield name, (module.gates, parameters_per_channel(layer))


def parameters_per_channel(layer) -> int:
    """Number of weights and biases of one channel of a layer's feed-forward network."""
    return sum(linear.in_features + 1 for linear in linears_of(layer.fc1)) + layer.fc2.out_features


def await_criterion(model: KDAdaptiveModel) -> None:
    """Add the penalty to the loss of the next criterion that is called with `model` in training."""
    stop_waiting(model)  # remove the hook of a criterion that was never called

    def add_penalty(module, inputs, output):
        if not isinstance(module, FairseqCriterion) or not inputs or unwrapped(inputs[0]) is not model:
            return None
        loss, sample_size, logging_output = output
        if not model.training or not loss.requires_grad or loss.dim() > 0:  # a loss per token is never trained on
            return None
        stop_waiting(model)
        penalty = model.capacity.penalty()
        return None if penalty is None else (loss + sample_size * penalty, sample_size, logging_output)

    model._waiting = register_module_forward_hook(add_penalty)


def stop_waiting(model: KDAdaptiveModel) -> None:
    """Remove the hook."""
    if model._waiting is not None:
        model._waiting.remove()
        model._waiting = None


register_sizes("kd_adaptive")
