"""`fairseq-kd verify-cache`: compare a cache on disk with its teacher."""

import os

from fairseq_kd.cli.user_dir import add_user_dir
from fairseq_kd.core.errors import KDError
from fairseq_kd.teacher.verify import verify_cache


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument("cache", metavar="DIR", help="the cache")
    parser.add_argument(
        "--teacher",
        metavar="FILE[:FILE...]",
        help="checkpoint, or the teachers of a mixture (default: the paths when the cache was made)",
    )
    parser.add_argument("--data-bin", metavar="DIR", help="data-bin (default: its path when the cache was made)")
    parser.add_argument(
        "--sample", type=int, default=100, help="number of sentences to compute again (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (default %(default)s)")
    parser.add_argument(
        "--teacher-data", metavar="DIR", help="folder of the teacher's dictionaries, if they were moved"
    )
    parser.add_argument("--trust-checkpoint", metavar="FILE", help="load this --teacher even if it holds code")
    parser.add_argument("--cpu", action="store_true", help="do not use CUDA")
    add_user_dir(parser)


def run(args) -> None:
    """Verify and print."""
    if args.trust_checkpoint is not None and args.trust_checkpoint not in (args.teacher or "").split(os.pathsep):
        raise KDError(f"--trust-checkpoint {args.trust_checkpoint}: name the same file with --teacher too")
    found = verify_cache(
        args.cache,
        teacher=args.teacher,
        data_bin=args.data_bin,
        sample=args.sample,
        seed=args.seed,
        cpu=args.cpu,
        teacher_data=args.teacher_data,
        trust=args.trust_checkpoint,
    )
    print(
        f"{args.cache}: all files are as they were made; {found.tokens:,} tokens of {found.sentences:,} sentences "
        f"computed again\n    largest deviation in probability {found.largest:.6f} (sentence {found.sentence}, "
        f"temperature {found.temperature:g}), mean of the largest of each token {found.mean:.6f}; "
        f"allowed {found.tolerance:g}"
    )
