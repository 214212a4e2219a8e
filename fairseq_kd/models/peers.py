"""`--arch kd_mutual`: several models of the same dictionaries in one model, for --criterion kd_mutual.

The peers come from pre-trained checkpoints, or from architectures and from the dimensions of other students. A
checkpoint of the training records the options of each peer, so it needs no other file. `fairseq_kd.models.splitting`
writes one ordinary checkpoint per peer.

Initial weights. Peer 1 begins with the weights that a training by itself with the same --seed has. Peer i begins with
the weights of --seed S + i - 1. So peers of the same shape differ, and each peer can be compared with a training of its
own.
"""

import logging
from argparse import Namespace

import torch
from fairseq import utils
from fairseq.models import BaseFairseqModel, register_model, register_model_architecture
from omegaconf import OmegaConf, open_dict

from fairseq_kd.core.errors import KDError, exit_on_user_error
from fairseq_kd.core.hydra_paths import resolve_paths
from fairseq_kd.inference.supported import COMPOSITE
from fairseq_kd.models.count import parameter_count
from fairseq_kd.models.peer_options import (
    OF_THE_COMPOSITE,
    OPTIONS,
    PATHS,
    Peer,
    build_peer,
    from_checkpoints,
    listed_peers,
    offered,
)

logger = logging.getLogger(__name__)
SPLIT = "fairseq-kd split CHECKPOINT --out DIR writes one checkpoint per peer: use these"


@register_model(COMPOSITE)
class KDMutualModel(BaseFairseqModel):
    """Two or more encoder-decoder models, which get the same batches."""

    def __init__(self, peers):
        """peers: models of the same dictionaries."""
        super().__init__()
        self.peers = torch.nn.ModuleList(peers)

    @classmethod
    def add_args(cls, parser):
        """Add the options that name the peers, and the options of the peers' models."""
        for name, text in OPTIONS.items():
            parser.add_argument(f"--{name.replace('_', '-')}", metavar="A:B", help=text)
        for action in offered():
            parser._add_action(action)

    @classmethod
    def build_model(cls, args, task):
        """Build the model for fairseq. A user error ends the process with status 2.

        args: get the complete options of each peer, which fairseq then saves in every checkpoint.
        """
        given = vars(args) if isinstance(args, Namespace) else OmegaConf.to_container(args)
        with exit_on_user_error():
            if recorded := given.get("peer_options"):
                return cls([build_peer(Namespace(**each), task, number) for number, each in enumerate(recorded)])
            check_training(given, task)
            options = Namespace(**given)
            resolve_paths(options, PATHS)
            peers = open_peers(options, task)
        for number, peer in enumerate(peers, 1):
            logger.info(f"peer {number}: {peer.name}, {parameter_count(peer.model):,} parameters")
        _record(args, [peer.options for peer in peers])
        return cls([peer.model for peer in peers])

    def forward(self, src_tokens, src_lengths, prev_output_tokens, features_of=()):
        """The outputs of all peers, in their order; arguments as for a peer.

        features_of: for each peer, whether its output is the decoder's features; () means logits for all.
        """
        inputs = (src_tokens, src_lengths, prev_output_tokens)
        features_of = features_of or (False,) * len(self.peers)
        pairs = zip(self.peers, features_of, strict=True)
        return tuple(peer(*inputs, **({"features_only": True} if only else {})) for peer, only in pairs)

    def max_positions(self):
        """The longest (source, target) that all peers take."""
        return utils.resolve_max_positions(*(peer.max_positions() for peer in self.peers))

    def get_normalized_probs(self, net_output, log_probs, sample=None):
        """Refused with a user error: criterions that ask the model for this take one model."""
        with exit_on_user_error():
            raise KDError(f"--arch {COMPOSITE} holds several models: train it with --criterion kd_mutual")

    def prepare_for_inference_(self, cfg):
        """Refused with a user error: the stock commands that call this decode with one model."""
        with exit_on_user_error():
            raise KDError(f"the checkpoint holds several models (--arch {COMPOSITE}), which are not decoded: {SPLIT}")


def check_training(given: dict, task) -> None:
    """Raises KDError for options of a training that do not fit a composite."""
    if given.get("criterion") not in (None, "kd_mutual"):  # fairseq-hydra-train does not say which criterion it is
        raise KDError(f"--arch {COMPOSITE} holds several models: train it with --criterion kd_mutual")
    if getattr(task.cfg, "eval_bleu", False):
        raise KDError(
            f"--eval-bleu does not work with --arch {COMPOSITE}, which is not decoded: choose the checkpoint by the "
            "loss, split it, and score each peer with fairseq-kd evaluate"
        )


def open_peers(args: Namespace, task) -> list[Peer]:
    """The peers that the options name. Raises KDError unless these are two or more that can be trained together."""
    names = listed_peers(args)
    if args.peers is not None:
        return from_checkpoints(names, args, task)
    common = {name: value for name, value in vars(args).items() if name not in OF_THE_COMPOSITE}
    peers = []
    for number, (arch, like) in enumerate(names):
        options = Namespace(**common | {"arch": arch, "_name": arch} | ({} if like is None else {"like": like}))
        model = build_peer(options, task, number)
        peers.append(Peer(arch if like is None else f"like {like}", vars(options), model))
    return peers


def _record(args, peer_options: list[dict]) -> None:
    """Replace the options that name the peers by the peers' own options."""
    values = dict.fromkeys(OPTIONS) | {"peer_options": peer_options}
    if isinstance(args, Namespace):
        vars(args).update(values)
    else:
        with open_dict(args):
            args.update(values)


@register_model_architecture(COMPOSITE, COMPOSITE)
def composite(args) -> None:
    """Set the defaults that `args` does not have: no peers."""
    for name in OPTIONS:
        setattr(args, name, getattr(args, name, None))
