"""`fairseq-kd noise`: aligned text or a data-bin -> a copy with noise of known rates."""

from fairseq_kd.core.errors import KDError
from fairseq_kd.noise.operations import LEVELS, OPERATIONS, SUBSTITUTES, TOKENIZERS, NoiseOptions
from fairseq_kd.noise.text_level import remedy_for_unsegmented

CHOICES = {"source": ("source",), "target": ("target",), "both": ("source", "target")}


def add_arguments(parser) -> None:
    """Declare the options."""
    defaults = NoiseOptions(delete=1)
    given = parser.add_argument_group("input")
    given.add_argument("--prefix", metavar="IN", help="aligned text: IN.SOURCE and IN.TARGET, plain or compressed")
    given.add_argument("--data-bin", metavar="DIR", help="or a data-bin")
    given.add_argument("--source-lang", "-s", metavar="LANG", help="source language (default for a data-bin: its own)")
    given.add_argument("--target-lang", "-t", metavar="LANG", help="target language, with --source-lang")
    given.add_argument("--side", choices=CHOICES, default="source", help="side that gets noise (default %(default)s)")
    given.add_argument("--subset", metavar="NAME", help="subset of a data-bin: train, valid, test, ... (default train)")
    given.add_argument(
        "--out", required=True, metavar="OUT", help="OUT.SOURCE, OUT.TARGET, OUT.manifest.json; or the new data-bin"
    )
    _add_rates(parser, defaults)
    group = parser.add_argument_group("subwords")
    group.add_argument("--subword-model", metavar="FILE", help="for --level subword on text: .spm or .codes")
    group.add_argument(
        "--post-process", metavar="KIND", help="how subwords make words, if DIR is from fairseq-preprocess"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes; the result is the same (default %(default)s)"
    )


def _add_rates(parser, defaults: NoiseOptions) -> None:
    group = parser.add_argument_group("rates: shares of all words (or subwords, characters); their sum is at most 1")
    group.add_argument("--delete", type=float, default=0.0, metavar="P", help="share that is deleted")
    group.add_argument(
        "--substitute", type=float, default=0.0, metavar="P", help="share that is replaced by other words"
    )
    group.add_argument(
        "--swap", type=float, default=0.0, metavar="P", help="share that changes places with the next word"
    )
    group.add_argument(
        "--swap-window",
        type=int,
        default=defaults.swap_window,
        metavar="N",
        help="a word is swapped with one of the next N words (default 1)",
    )
    group.add_argument(
        "--substitute-from",
        choices=SUBSTITUTES,
        default=defaults.substitute_from,
        help="replacement words are drawn by their frequency in the text, or uniformly (default %(default)s)",
    )
    group.add_argument(
        "--level", choices=LEVELS, default=defaults.level, help="unit of the noise (default %(default)s)"
    )
    group.add_argument(
        "--word-tokenizer",
        choices=TOKENIZERS,
        default=defaults.word_tokenizer,
        help="spaces separate words; char: also each character of a script without spaces is one (default %(default)s)",
    )
    group.add_argument(
        "--protect",
        nargs="+",
        default=[],
        metavar="WORD",
        help="tags such as <BT> that stay unchanged and are not counted",
    )
    group.add_argument(
        "--sentence-share",
        type=float,
        default=defaults.sentence_share,
        metavar="Q",
        help="share of the sentences that get noise (default 1)",
    )
    group.add_argument("--seed", type=int, default=1, help="seed of the noise (default %(default)s)")


def options_of(args) -> NoiseOptions:
    """The checked options. Raises KDError."""
    return NoiseOptions(**{name: getattr(args, name) for name in NoiseOptions.__dataclass_fields__})


def run(args) -> None:
    """Make the noisy copy, and print the realised rates."""
    options = options_of(args)
    if (args.prefix is None) == (args.data_bin is None):
        raise KDError("give either --prefix IN or --data-bin DIR")
    common = {"sides": CHOICES[args.side], "seed": args.seed, "workers": args.workers}
    with remedy_for_unsegmented():
        manifest = _text(args, options, common) if args.prefix is not None else _data_bin(args, options, common)
    print(f"{args.out} is complete: {manifest['sentences']:,} sentences")
    for lang, report in manifest["noise"].items():
        print(f"{lang}: {report['lines_changed']:,} of {report['lines']:,} sentences changed")
        for name in OPERATIONS:
            rate = report["rates"][name]
            if rate["asked"]:
                share = "nothing" if rate["realised"] is None else f"{rate['realised']:.4f}"
                print(f"    {name}: {rate['done']:,} of {rate['possible']:,}, {share} (asked: {rate['asked']:g})")
        for word, count in report.get("protected", {}).items():  # 0.1.0 did not count them
            print(f"    {word} is protected and occurs {count:,} times")
        if report["lines_kept_from_vanishing"]:
            print(f"    {report['lines_kept_from_vanishing']:,} sentences kept a word that was to be deleted")


def _text(args, options, common) -> dict:
    from fairseq_kd.noise.text import noise_text

    for name in ("subset", "post_process"):
        if getattr(args, name) is not None:
            raise KDError(f"--{name.replace('_', '-')} has no effect with --prefix; it is for a data-bin")
    if not args.source_lang or not args.target_lang:
        raise KDError("--prefix needs --source-lang and --target-lang")
    languages = {"source": args.source_lang, "target": args.target_lang}
    return noise_text(args.prefix, args.out, languages, options, subword_model=args.subword_model, **common)


def _data_bin(args, options, common) -> dict:
    from fairseq_kd.noise.data_bin import noise_data_bin

    if args.subword_model is not None:
        raise KDError("--subword-model has no effect with --data-bin, which has its own")
    if (args.source_lang is None) != (args.target_lang is None):
        raise KDError("give --source-lang and --target-lang, or neither")
    languages = None if args.source_lang is None else {"source": args.source_lang, "target": args.target_lang}
    return noise_data_bin(
        args.data_bin,
        args.out,
        options,
        subset=args.subset or "train",
        languages=languages,
        post_process=args.post_process,
        **common,
    )
