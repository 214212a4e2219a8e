"""`fairseq-kd decode`: teacher + data-bin -> a data-bin with the teacher's targets (sequence-level distillation).

The sentences are a subset of a data-bin, or monolingual text (--source-text).
"""

import time

from fairseq_kd.cli.decode_converted import add_converted, add_teacher, teacher_of
from fairseq_kd.cli.decode_selection import FILTERS_HELP, add_filters, add_selection
from fairseq_kd.cli.user_dir import add_lang_pair, add_user_dir
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.device import parse_shard
from fairseq_kd.sequence.decode_options import (
    BACKENDS,
    DTYPES,
    DecodeOptions,
    check_without_gold,
)
from fairseq_kd.sequence.strategies import STRATEGIES, all_options, as_option, strategies_with


def add_arguments(parser) -> None:
    """Declare the options."""
    defaults = DecodeOptions()
    parser.add_argument("data_bin", metavar="DATA_BIN", nargs="?", help="the sentences; or give --source-text")
    parser.add_argument(
        "--source-text",
        nargs="+",
        metavar="FILE",
        help="the sentences: text in the teacher's source language, one per line, plain or compressed",
    )
    parser.add_argument(
        "--like", metavar="DATA_BIN", help="for --source-text: the data-bin whose subwords and dictionaries it gets"
    )
    add_teacher(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="the new data-bin; the same command continues it")
    parser.add_argument("--subset", default=defaults.subset, help="train, valid, ... (default %(default)s)")
    add_converted(parser.add_argument_group("a converted teacher, with --teacher-folder"))
    _add_back(parser.add_argument_group("back-translation"))
    _add_strategy(parser, defaults)
    add_selection(parser.add_argument_group("which hypothesis"), defaults)
    add_filters(parser.add_argument_group("filters", FILTERS_HELP), defaults)
    _add_execution(parser.add_argument_group("how the teacher runs"), defaults)
    add_user_dir(parser)


def _add_back(group) -> None:
    group.add_argument(
        "--back",
        action="store_true",
        help="--source-text is in the target language of --like; the answers of a reverse teacher become the sources",
    )
    group.add_argument("--tag", metavar="TOKEN", help="begins each source; a token that `prepare --reserve` reserved")


def _add_execution(group, defaults: DecodeOptions) -> None:
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default=defaults.backend,
        help="auto: ctranslate2 if it can run the strategy and the teacher (default %(default)s)",
    )
    group.add_argument("--dtype", choices=DTYPES, default=defaults.dtype, help="(default %(default)s)")
    group.add_argument("--workers", type=int, metavar="N", help="threads of ctranslate2 on a CPU (default: all cores)")
    group.add_argument("--teacher-data", metavar="DIR", help="folder of the teacher's dictionaries, if they were moved")
    add_lang_pair(group)
    group.add_argument("--trust-checkpoint", metavar="FILE", help="load this teacher even if it holds code")
    group.add_argument("--max-tokens", type=int, metavar="N", help="source tokens per batch (default: by the backend)")
    group.add_argument("--cpu", action="store_true", help="do not use CUDA")
    group.add_argument(
        "--shard",
        metavar="I/N",
        help="do the share I (0 to N - 1) of the work; the last process to finish joins all shares. torchrun: by rank",
    )


def _add_strategy(parser, defaults: DecodeOptions) -> None:
    group = parser.add_argument_group("strategy")
    listed = "; ".join(f"{strategy.name}: {strategy.summary}" for strategy in STRATEGIES.values())
    group.add_argument(
        "--strategy", choices=tuple(STRATEGIES), default=defaults.strategy, help=f"{listed} (default %(default)s)"
    )
    for name, option in all_options().items():
        group.add_argument(
            as_option(name),
            type=type(option.default),
            choices=option.choices or None,
            help=f"{option.help} (default {option.default}; for {', '.join(strategies_with(name))})",
        )


def options_of(args) -> DecodeOptions:
    """The checked options. Raises KDError for values that cannot be used."""
    check_sentences(args)
    given = {name: getattr(args, name) for name in DecodeOptions.names()}
    given["opusfilter"] = tuple(args.opusfilter) if args.opusfilter else None
    given["fallback"] = args.fallback or ("drop" if args.source_text else DecodeOptions.fallback)
    options = DecodeOptions(**given)
    if args.source_text:
        check_without_gold(options)
    return options


def run(args) -> None:
    """Make the data-bin, or continue it, and print its content."""
    options, teacher = options_of(args), teacher_of(args)
    shard, started = parse_shard(args.shard), time.monotonic()
    how = {"shard": shard, "teacher_data": args.teacher_data, "trust": args.trust_checkpoint, "workers": args.workers}
    how["lang_pair"] = args.lang_pair
    if args.source_text:
        from fairseq_kd.sequence.source_text import decode_text

        manifest = decode_text(args.source_text, args.like, teacher, args.out, options, back=back_of(args), **how)
    else:
        from fairseq_kd.sequence.decode import decode

        manifest = decode(args.data_bin, teacher, args.out, options, post_process=args.post_process, **how)
    if manifest is None:
        print(
            f"share {shard[0]} of {shard[1]} of {args.out} is finished, others are not: the last to finish joins all "
            "(the same command without --shard does the rest)"
        )
        return
    print_summary(args, manifest, time.monotonic() - started)


def check_sentences(args) -> None:
    """Raises KDError unless the sentences are given once, and for options without an effect on them."""
    if (args.data_bin is None) == (args.source_text is None):
        found = "both are" if args.data_bin else "neither is"
        raise KDError(f"give either DATA_BIN or --source-text FILE --like DATA_BIN as the sentences: {found} given")
    if args.source_text and not args.like:
        raise KDError(
            "--source-text needs --like DATA_BIN, the data-bin of the teacher: its subword model and dictionaries make "
            "sentences of the text"
        )
    if args.like and not args.source_text:
        raise KDError(f"--like {args.like} has no effect without --source-text")
    if args.back and not args.source_text:
        raise KDError("--back needs --source-text: the text that becomes the target side")
    if args.tag is not None and not args.back:
        raise KDError(f"--tag {args.tag} has no effect without --back")
    if args.source_text and args.post_process:
        raise KDError(
            f"--post-process {args.post_process} has no effect with --source-text: --like says how subwords become text"
        )


def back_of(args):
    """The back-translation of --back and --tag, None without --back."""
    from fairseq_kd.sequence.back import Back

    return Back(args.tag) if args.back else None


def print_summary(args, manifest: dict, seconds: float) -> None:
    """Print the content of the data-bin, and the next command."""
    pairs, sentences = manifest["pairs"], manifest["sentences"]
    print(
        f"{args.out} is complete: {pairs:,} pairs of {sentences:,} sentences, {manifest['target_tokens']:,} target "
        f"tokens, by {manifest['backend']} in {seconds:.1f} s"
    )
    if unknown := manifest.get("unknown_target_tokens", 0):  # older manifests have no count
        share = unknown / manifest["target_tokens"]
        print(f"    {unknown:,} target tokens are unknown to the dictionary ({share:.2%})")
    if cut := manifest.get("targets_at_limit", 0):
        print(f"    {cut:,} targets have the greatest length and may lack their ends (--max-len-a, --max-len-b)")
    for reason, count in manifest["fallbacks"].items():
        print(f"    {count:,} gold targets replace the teacher's ({reason.replace('_', ' ')})")
    for reason, count in manifest["dropped"].items():
        print(f"    {count:,} pairs dropped ({reason.replace('_', ' ')})")
    if any(manifest.get("filtering", {}).get("dropped", {}).values()):
        print(f"    {args.out}/{manifest['subset']}.dropped.tsv has examples for each filter")
    if "cleaning" in manifest:
        from fairseq_kd.corpus.source_text import LINES_NAME, describe_report

        print(f"    of the text: {describe_report(manifest['cleaning'])}; {args.out}/{LINES_NAME} has each line")
        print(f"next: fairseq-kd mix {args.like} {args.out} --out MIXED, or fairseq-train {args.out} ...")
    elif manifest["subset"] == "train":
        print(f"next: fairseq-train {args.out} ...")
