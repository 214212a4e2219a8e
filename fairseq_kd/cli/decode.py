"""`fairseq-kd decode`: teacher + data-bin -> a data-bin with the teacher's targets (sequence-level distillation)."""

import time

from fairseq_kd.cli.translation import add_tokenize_argument
from fairseq_kd.cli.user_dir import add_user_dir
from fairseq_kd.inference.device import parse_shard
from fairseq_kd.sequence.options import BACKENDS, DEFAULTS, DTYPES, METRICS, SELECTIONS, STRATEGIES, DecodeOptions


def add_arguments(parser) -> None:
    """Declare the options."""
    defaults = DecodeOptions()
    parser.add_argument("data_bin", metavar="DATA_BIN")
    parser.add_argument("--teacher", required=True, metavar="FILE[:FILE]", help="checkpoint, or several as an ensemble")
    parser.add_argument("--out", required=True, metavar="DIR", help="the new data-bin; the same command continues it")
    parser.add_argument("--subset", default=defaults.subset, help="train, valid, ... (default %(default)s)")
    _add_strategy(parser, defaults)
    group = parser.add_argument_group("choice of hypotheses and sentences")
    group.add_argument(
        "--select",
        choices=SELECTIONS,
        default=defaults.select,
        help="which of the n best: the most probable, or the closest to the gold target (default %(default)s)",
    )
    group.add_argument(
        "--metric",
        choices=METRICS,
        default=defaults.metric,
        help="closeness for --select closest (default %(default)s)",
    )
    add_tokenize_argument(group)
    group.add_argument("--post-process", metavar="KIND", help="how subwords are joined for --metric")
    group.add_argument(
        "--fallback",
        choices=("reference", "error"),
        default=defaults.fallback,
        help="if the teacher has no answer: use the gold target and count it, or stop (default %(default)s)",
    )
    group.add_argument(
        "--max-length-ratio",
        type=float,
        metavar="R",
        help="leave out pairs whose longer side / shorter side is above R",
    )
    group.add_argument("--drop-empty", action="store_true", help="leave out pairs with an empty side")
    group.add_argument("--drop-copies", action="store_true", help="leave out targets that repeat their source")
    _add_running(parser, defaults)
    add_user_dir(parser)


def _add_running(parser, defaults: DecodeOptions) -> None:
    group = parser.add_argument_group("how the teacher runs")
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default=defaults.backend,
        help="auto: ctranslate2 if it can do the request (default %(default)s)",
    )
    group.add_argument("--dtype", choices=DTYPES, default=defaults.dtype, help="(default %(default)s)")
    group.add_argument("--workers", type=int, metavar="N", help="threads of ctranslate2 on a CPU (default: all cores)")
    group.add_argument("--teacher-data", metavar="DIR", help="folder of the teacher's dictionaries, if they were moved")
    group.add_argument("--trust-checkpoint", metavar="FILE", help="load this teacher even if it holds code")
    group.add_argument("--max-tokens", type=int, metavar="N", help="source tokens per batch (default: the backend's)")
    group.add_argument("--cpu", action="store_true", help="do not use CUDA")
    group.add_argument(
        "--shard",
        metavar="I/N",
        help="do share I (0 to N - 1) of the work; the last process to finish joins all. With torchrun: by rank",
    )


def _add_strategy(parser, defaults: DecodeOptions) -> None:
    group = parser.add_argument_group("strategy")
    group.add_argument("--strategy", choices=STRATEGIES, default=defaults.strategy, help="(default %(default)s)")
    kinds = {
        "beam": (int, "number of hypotheses that the search keeps"),
        "nbest": (int, "number of hypotheses that are written, or of samples that are drawn"),
        "lenpen": (float, "length penalty; above 1 favours longer hypotheses"),
        "max_len_a": (float, "longest output: A * source + B tokens"),
        "max_len_b": (int, "see --max-len-a"),
        "sampling_topk": (int, "draw from the K most probable tokens; 0: from all"),
        "sampling_topp": (float, "draw from the most probable tokens that have mass P; 0: from all"),
        "sampling_temperature": (float, "divides the logits"),
        "seed": (int, "seed of sampling"),
    }
    for name, (kind, text) in kinds.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"{text} (default {DEFAULTS[name]})")
    group.add_argument(
        "--early-eos",
        choices=("replace", "cut"),
        help="for teacher forcing, if the teacher would end before the gold target: replace the end by its next best "
        "token, or cut the target (default replace)",
    )


def options_of(args) -> DecodeOptions:
    """The checked options. Raises KDError."""
    return DecodeOptions(**{name: getattr(args, name) for name in DecodeOptions.__dataclass_fields__})


def run(args) -> None:
    """Make the data-bin, or continue it, and say what is in it."""
    from fairseq_kd.sequence.decode import decode

    options = options_of(args)
    shard, started = parse_shard(args.shard), time.monotonic()
    manifest = decode(
        args.data_bin,
        args.teacher,
        args.out,
        options,
        shard=shard,
        teacher_data=args.teacher_data,
        trust=args.trust_checkpoint,
        post_process=args.post_process,
        workers=args.workers,
    )
    if manifest is None:
        print(
            f"share {shard[0]} of {shard[1]} of {args.out} is finished, others are not: the last to finish joins all "
            "(the same command without --shard does what is left)"
        )
        return
    print_summary(args, manifest, time.monotonic() - started)


def print_summary(args, manifest: dict, seconds: float) -> None:
    """What the data-bin holds, and the next command."""
    pairs, sentences = manifest["pairs"], manifest["sentences"]
    print(
        f"{args.out} is complete: {pairs:,} pairs of {sentences:,} sentences, {manifest['target_tokens']:,} target "
        f"tokens, by {manifest['backend']} in {seconds:.1f} s"
    )
    for reason, count in manifest["fallbacks"].items():
        print(f"    {count:,} gold targets stand in for the teacher's ({reason.replace('_', ' ')})")
    for reason, count in manifest["dropped"].items():
        print(f"    {count:,} pairs left out ({reason.replace('_', ' ')})")
    if manifest["subset"] == "train":
        print(f"next: fairseq-train {args.out} ...")
