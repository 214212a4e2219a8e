"""`fairseq-kd cache`: teacher + data-bin -> the teacher's signal on disk, for training without running the teacher."""

import sys

from fairseq_kd.cache.format import STORES, format_of
from fairseq_kd.cache.make import make_cache
from fairseq_kd.cache.options import TAIL_SHAPES, CachingOptions
from fairseq_kd.cache.rounding import describe_rounding
from fairseq_kd.cache.teachers import describe_weights
from fairseq_kd.cache.truncation import describe_truncation
from fairseq_kd.cli.user_dir import add_lang_pair, add_user_dir
from fairseq_kd.core.paths import USER_DIR, listed
from fairseq_kd.inference.device import parse_shard
from fairseq_kd.inference.frozen import DTYPES
from fairseq_kd.inference.multilingual import TRANSLATION
from fairseq_kd.loss.divergences import DIVERGENCES
from fairseq_kd.loss.weights import SENTENCE, TOKEN, Weighting, read_weighting
from fairseq_kd.training.memory import keep_memory


def add_arguments(parser) -> None:
    """Declare the options."""
    defaults = CachingOptions()
    parser.add_argument("data_bin", metavar="DATA_BIN")
    parser.add_argument(
        "--teacher",
        required=True,
        metavar="FILE[:FILE...]",
        help="checkpoint made by fairseq-train; of several the cache holds the mixture",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the cache; the same command continues it")
    parser.add_argument("--subset", default=defaults.subset, help="train, valid, ... (default %(default)s)")
    add_content(parser, defaults)
    add_weights(parser)
    add_running(parser, defaults)
    add_user_dir(parser)


def add_content(parser, defaults: CachingOptions) -> None:
    """Declare the options about the stored values."""
    shaped = [name for name, divergence in DIVERGENCES.items() if divergence.sees_tail_shapes]
    group = parser.add_argument_group("content")
    group.add_argument(
        "--top-k", type=int, default=defaults.top_k, help="vocabulary entries per token (default %(default)s)"
    )
    group.add_argument(
        "--temperature",
        type=float,
        nargs="+",
        default=defaults.temperatures,
        metavar="T",
        help="temperatures of the teacher that trainings will use (default 1)",
    )
    group.add_argument(
        "--store", choices=STORES, default=defaults.store, help="compact: 16 bits per value (default %(default)s)"
    )
    group.add_argument(
        "--tail-shapes",
        type=int,
        metavar="G",
        help="number of tail shapes: distributions, shared by all tokens, of the mass outside of the k entries. They "
        f"cost one byte per token and serve --kd-divergence {' and '.join(shaped)} (the others see one bucket). 0 to "
        f"256; 0: none (default {TAIL_SHAPES}, or 0 if --top-k is the whole vocabulary)",
    )


def add_running(parser, defaults: CachingOptions) -> None:
    """Declare the options about the run of the teacher."""
    group = parser.add_argument_group("running the teacher")
    group.add_argument(
        "--teacher-dtype",
        choices=DTYPES,
        default=defaults.teacher_dtype,
        help="type of the weights, or on a CPU of the products in bfloat16 (default %(default)s)",
    )
    group.add_argument("--teacher-data", metavar="DIR", help="folder of the teacher's dictionaries, if they were moved")
    group.add_argument("--trust-checkpoint", metavar="FILE", help="load this --teacher even if it holds code")
    add_lang_pair(group)
    group.add_argument(
        "--student-task",
        choices=(TRANSLATION,),
        help="the student has no language tokens, but the task of the teacher adds them: the cache is of the data "
        "without them, over the dictionary of the data (default: the task of the teacher)",
    )
    group.add_argument(
        "--max-tokens", type=int, default=defaults.max_tokens, help="tokens per batch (default %(default)s)"
    )
    group.add_argument("--cpu", action="store_true", help="do not use CUDA")
    group.add_argument(
        "--shard",
        metavar="I/N",
        help="do share I (0 to N - 1) of the work; the last process to finish joins all. With torchrun: by rank",
    )


def add_weights(parser) -> None:
    """Declare the options about the weights of several teachers."""
    group, defaults = parser.add_argument_group("weights of several teachers"), Weighting()
    group.add_argument(
        "--teacher-weights",
        default=defaults.kind,
        metavar="WEIGHTS",
        help="equal; adaptive: per token, by the probability that each teacher gives the gold token; nll: by the loss "
        "of each teacher on the validation set; or one number per teacher, W1:W2:W3 (default %(default)s)",
    )
    group.add_argument(
        "--teacher-weight-temperature",
        type=float,
        default=defaults.temperature,
        metavar="T",
        help="with adaptive and nll: above 1 the weights are more alike (default %(default)g)",
    )
    group.add_argument(
        "--teacher-weights-per",
        choices=(TOKEN, SENTENCE),
        default=defaults.per,
        help="with adaptive: the unit that has its own weights (default %(default)s)",
    )


def options_of(args) -> CachingOptions:
    """The checked options. Raises KDError."""
    return CachingOptions(
        subset=args.subset,
        top_k=args.top_k,
        temperatures=tuple(args.temperature),
        store=args.store,
        teacher_dtype=args.teacher_dtype,
        max_tokens=args.max_tokens,
        cpu=args.cpu,
        tail_shapes=args.tail_shapes,
    )


def run(args) -> None:
    """Make the cache, or continue it, and print a summary."""
    count = len(listed(args.teacher))
    weights = args.teacher_weights, count, args.teacher_weight_temperature, args.teacher_weights_per
    weighting, shard = read_weighting(*weights), parse_shard(args.shard)
    options = options_of(args)
    if options.device().type == "cpu":
        keep_memory()
    manifest = make_cache(
        args.data_bin,
        args.teacher,
        args.out,
        options,
        shard,
        teacher_data=args.teacher_data,
        trust=args.trust_checkpoint,
        weighting=weighting,
        student_task=args.student_task,
        lang_pair=args.lang_pair,
    )
    if manifest is None:
        print(
            f"share {shard[0]} of {shard[1]} of {args.out} is finished, others are not: the last to finish joins all "
            "(the same command without --shard does the remaining work)"
        )
        return
    print_summary(args, manifest)


def print_summary(args, manifest: dict) -> None:
    """Print the content of the cache, and the next command."""
    cache_format = format_of(manifest)
    size = sum(cache_format.file_sizes(manifest["sentences"], manifest["tokens"]).values())
    print(
        f"{args.out} is complete: {manifest['tokens']:,} tokens of {manifest['sentences']:,} sentences, "
        f"{cache_format.bytes_per_token()} bytes per token, {size / 1e6:,.1f} MB"
    )
    for temperature, mass in zip(manifest["temperatures"], manifest["mean_tail_mass"], strict=True):
        print(f"    temperature {temperature:g}: {100 * mass:.2f} % of the mass outside of the {manifest['k']} entries")
        if (warning := describe_truncation(manifest, temperature)) is not None:
            print(f"warning: {warning}", file=sys.stderr)
    if "language_tokens" in manifest:
        print(f"    for a student with {manifest['language_tokens']}; without them: --student-task translation")
    for line in (*describe_weights(manifest), *describe_rounding(manifest)):
        print(line)
    option = "" if manifest["temperatures"][0] == 1 else f" --teacher-temperature {manifest['temperatures'][0]:g}"
    print(f"next: fairseq-train {args.data_bin} ... {USER_DIR} --criterion kd_word --teacher-cache {args.out}{option}")
