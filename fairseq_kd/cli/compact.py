"""`fairseq-kd compact`: a trained student with gates -> a smaller checkpoint without gates."""

from fairseq_kd.cli.user_dir import add_user_dir
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import USER_DIR


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint of a kd_adaptive student")
    parser.add_argument("--out", required=True, metavar="FILE", help="the compact student")
    parser.add_argument("--trust-checkpoint", metavar="FILE", help="load CHECKPOINT even if it holds code")
    add_user_dir(parser)


def run(args) -> None:
    """Write the compact student, and print its size."""
    from fairseq_kd.models.compact import compact_checkpoint

    if args.trust_checkpoint not in (None, args.checkpoint):
        raise KDError(f"--trust-checkpoint {args.trust_checkpoint} is not the CHECKPOINT {args.checkpoint}")
    report = compact_checkpoint(args.checkpoint, args.out, trust=args.trust_checkpoint is not None)
    before, after = report.pop("before"), report.pop("after")
    print(f"{args.out}: {after:,} of {before:,} parameters ({after / before:.1%})")
    for option, numbers in report.items():
        print(f"    {option.replace('_', ' '):22} {numbers}")
    options = f"--arch kd_student --like {args.out} --finetune-from-model {args.out}"
    print(f"to train it on: fairseq-train ... {USER_DIR} {options}")
