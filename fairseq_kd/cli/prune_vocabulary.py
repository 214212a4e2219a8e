"""`fairseq-kd prune-vocabulary`: a checkpoint and a data-bin -> the same with the tokens that the data-bin uses."""

from fairseq_kd.cli.user_dir import add_lang_pair, add_user_dir
from fairseq_kd.core.errors import KDError


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint of a translation model")
    parser.add_argument("--data", required=True, metavar="DATA_BIN", help="data-bin whose tokens are kept")
    parser.add_argument("--out", required=True, metavar="FILE", help="the small checkpoint")
    parser.add_argument(
        "--out-data",
        metavar="DATA_BIN",
        help="the data-bin with the new ids (default: only the small dictionaries are written, beside --out)",
    )
    parser.add_argument(
        "--subsets",
        nargs="+",
        metavar="SUBSET",
        help="count the tokens of these subsets only; further tokens of others become <unk> (default: all subsets)",
    )
    parser.add_argument("--keep", metavar="FILE", help="tokens that are kept in any case, one per line")
    parser.add_argument(
        "--min-count",
        type=int,
        default=1,
        metavar="N",
        help="keep tokens that occur N times or more; the others become <unk> (default 1)",
    )
    parser.add_argument(
        "--dictionaries",
        metavar="FOLDER",
        help="folder with the dictionaries of CHECKPOINT (default: the one that the checkpoint records)",
    )
    add_lang_pair(parser)
    parser.add_argument("--trust-checkpoint", metavar="FILE", help="load CHECKPOINT even if it holds code")
    add_user_dir(parser)


def run(args) -> None:
    """Prune, and print the sizes before and after."""
    from fairseq_kd.pruning.chosen import describe
    from fairseq_kd.pruning.prune import PruneOptions, prune_vocabulary

    if args.trust_checkpoint not in (None, args.checkpoint):
        raise KDError(f"--trust-checkpoint {args.trust_checkpoint} is not the CHECKPOINT {args.checkpoint}")
    options = PruneOptions(
        subsets=tuple(dict.fromkeys(args.subsets)) if args.subsets else None,
        keep=args.keep,
        min_count=args.min_count,
        dictionaries=args.dictionaries,
        lang_pair=args.lang_pair,
        trust=args.trust_checkpoint is not None,
    )
    report = prune_vocabulary(args.checkpoint, args.data, args.out, args.out_data, options)
    print(f"{'':16}{'before':>14}{'after':>14}")
    rows = [("source tokens", report.entries[0]), ("target tokens", report.entries[1])]
    for name, (before, after) in [*rows, ("parameters", report.parameters)]:
        print(f"{name:16}{before:>14,}{after:>14,}")
    print(f"{'weights, MB':16}{report.weight_bytes[0] / 1e6:>14,.1f}{report.weight_bytes[1] / 1e6:>14,.1f}")
    for line in describe(report.chosen):
        print(line)
    print(f"{args.out}: the checkpoint; {report.folder}: its dictionaries")
