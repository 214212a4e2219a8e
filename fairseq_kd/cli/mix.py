"""`fairseq-kd mix`: several data-bins -> one, for training on original and distilled targets together."""

from fairseq_kd.core.errors import KDError


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument(
        "data_bins", nargs="+", metavar="DATA_BIN", help="data-bins; the first one gives the evaluation sets"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the new data-bin")
    parser.add_argument(
        "--times",
        type=float,
        nargs="+",
        metavar="N",
        help="how many times each training set is taken; 0.5: a random half (default: once each)",
    )
    parser.add_argument("--seed", type=int, help="seed of random shares such as 0.5 (default 1)")
    parser.add_argument(
        "--source-lang", metavar="LANG", help="source language (default: the languages of the first data-bin)"
    )
    parser.add_argument("--target-lang", metavar="LANG", help="target language, with --source-lang")


def run(args) -> None:
    """Mix, and print the content of the data-bin."""
    from fairseq_kd.sequence.mix import mix

    if len(args.data_bins) < 2 and args.times is None:
        raise KDError("give two data-bins or more to mix, or --times")
    if (args.source_lang is None) != (args.target_lang is None):
        raise KDError("give --source-lang and --target-lang, or neither")
    times = args.times or [1.0] * len(args.data_bins)
    languages = (args.source_lang, args.target_lang)
    manifest = mix(args.data_bins, times, args.out, languages=languages, seed=args.seed)
    shares = " + ".join(f"{count:,}" for count in manifest["pairs_of_each"])
    print(f"{args.out} is complete: {shares} = {manifest['pairs']:,} pairs")
    print(f"next: fairseq-train {args.out} ...")
