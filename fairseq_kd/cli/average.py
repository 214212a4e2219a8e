"""`fairseq-kd average`: several models of equal shape -> one model with the mean of their weights."""

from pathlib import Path

from fairseq_kd.cli.user_dir import add_user_dir
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import checkpoints_of


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoints", metavar="A:B", help="two or more checkpoints of equal shape, joined by :")
    parser.add_argument("--out", required=True, metavar="FILE", help="the checkpoint with the mean of the weights")
    parser.add_argument("--trust-checkpoint", metavar="FILE", help="load this checkpoint even if it holds code")
    add_user_dir(parser)


def run(args) -> None:
    """Write the mean, and print what it is made from."""
    from fairseq_kd.evaluation.average import soup

    paths = checkpoints_of(args.checkpoints, "A:B")
    trusted = [] if args.trust_checkpoint is None else [Path(args.trust_checkpoint)]
    if args.trust_checkpoint is not None and Path(args.trust_checkpoint) not in paths:
        raise KDError(f"--trust-checkpoint {args.trust_checkpoint} is not one of {args.checkpoints}")
    found = soup(paths, args.out, trusted)
    print(f"{args.out}: the mean of {', '.join(found)}")
