"""`fairseq-kd split`: checkpoints of a mutual training -> one ordinary checkpoint per peer."""

from pathlib import Path

from fairseq_kd.cli.user_dir import add_user_dir
from fairseq_kd.core.errors import KDError


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="checkpoint of --arch kd_mutual")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder with peer1/, peer2/ and so on")
    parser.add_argument(
        "--trust-checkpoint",
        metavar="FILE",
        action="append",
        default=[],
        help="load this CHECKPOINT even if it holds code; can be given several times",
    )
    add_user_dir(parser)


def run(args) -> None:
    """Write the peers, and print where they are."""
    from fairseq_kd.models.splitting import split_checkpoints

    if unknown := sorted(set(args.trust_checkpoint) - set(args.checkpoints)):
        raise KDError(f"--trust-checkpoint {unknown[0]} is not the CHECKPOINT {' '.join(args.checkpoints)}")
    manifest = split_checkpoints(args.checkpoints, args.out, args.trust_checkpoint)
    for name in manifest["files"]:
        print(Path(args.out) / name)
