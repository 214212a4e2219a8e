"""Checks of a training that is planned and not built yet, from the options that fairseq has parsed."""

from fairseq_kd.criterions.hybrid_config import check_hybrid_options
from fairseq_kd.criterions.mutual_config import check_mutual_options
from fairseq_kd.criterions.proximal import check_proximal_options
from fairseq_kd.inference.supported import check_autoregressive
from fairseq_kd.models.peer_options import listed_peers


def check_planned(args) -> None:
    """Check the parsed options of a training by a criterion of this package, and its architecture or its peers.

    Raises KDError for an option out of range or without effect, and for a non-autoregressive architecture.
    """
    from fairseq.models import ARCH_MODEL_REGISTRY

    if args.criterion == "kd_mutual":
        check_mutual_options(args)
        listed_peers(args)
        return
    (check_hybrid_options if args.criterion == "kd_hybrid" else check_proximal_options)(args)
    check_autoregressive(ARCH_MODEL_REGISTRY[args.arch], f"--arch {args.arch}")
