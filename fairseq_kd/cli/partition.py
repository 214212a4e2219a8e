"""`fairseq-kd partition`: a data-bin or aligned text -> parts that differ in a known way."""

from fairseq_kd.core.errors import KDError


def add_arguments(parser) -> None:
    """Declare the options."""
    from fairseq_kd.partition.options import ALPHA, TOPICS, PartitionOptions
    from fairseq_kd.partition.rules import RULES

    parser.add_argument("data_bin", nargs="?", metavar="DATA_BIN", help="the data-bin whose training set is divided")
    parser.add_argument("--prefix", metavar="IN", help="or aligned text: IN.SOURCE and IN.TARGET, plain or compressed")
    parser.add_argument("--source-lang", "-s", metavar="LANG", help="source language (default for a data-bin: its own)")
    parser.add_argument("--target-lang", "-t", metavar="LANG", help="target language, with --source-lang")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the parts: DIR/part1, DIR/part2, ...")
    parser.add_argument("--parts", type=int, required=True, metavar="N", help="number of parts, 2 or more")
    rules = "; ".join(f"{rule.name}: {rule.summary}" for rule in RULES.values())
    parser.add_argument("--by", choices=RULES, required=True, help=rules.replace("%", "%%"))
    users = {name: ", ".join(rule.name for rule in RULES.values() if name in rule.defaults) for name in NAMES}
    parser.add_argument(
        "--alpha",
        type=float,
        metavar="A",
        help=f"of the Dirichlet distribution, 0 (most different) to inf (equal shares); for {users['alpha']} "
        f"(default {ALPHA}; of domain-file: whole domains go to parts)",
    )
    parser.add_argument("--seed", type=int, help=f"seed of what is drawn, for {users['seed']} (default 1)")
    parser.add_argument("--topics", type=int, metavar="K", help=f"for topic (default {TOPICS}, or N if N is larger)")
    parser.add_argument(
        "--min-sentences", type=int, metavar="M", help=f"least size of a part, for {users['min_sentences']} (default 1)"
    )
    parser.add_argument(
        "--domains",
        action="append",
        default=[],
        metavar="FILE",
        help="for domain-file: one label per training sentence; SUBSET=FILE for another subset (repeatable)",
    )
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="SUBSET",
        help="divide this subset too, such as valid; without it each part has all of it (repeatable)",
    )
    parser.add_argument(
        "--post-process", metavar="KIND", help="how subwords make words, if DATA_BIN is from fairseq-preprocess"
    )
    parser.add_argument("--no-plot", action="store_true", help="do not draw differences.svg, which needs matplotlib")
    assert {"parts", "by", *NAMES} == set(PartitionOptions.__dataclass_fields__)


NAMES = ("alpha", "seed", "topics", "min_sentences")


def options_of(args):
    """The options of the command line. Raises KDError for values and combinations that cannot be used."""
    from fairseq_kd.partition.options import PartitionOptions
    from fairseq_kd.partition.rules import RULES

    options = PartitionOptions(args.parts, args.by, **{name: getattr(args, name) for name in NAMES})
    RULES[options.by].settle(options)
    return options


def run(args) -> None:
    """Divide, and print how different the parts are."""
    from fairseq_kd.partition.tables import group_table, mean_table, plain, size_table

    if (args.prefix is None) == (args.data_bin is None):
        raise KDError("give either DATA_BIN or --prefix IN")
    options = options_of(args)
    manifest = (_data_bin if args.prefix is None else _text)(args, options)
    found = _read_differences(args.out)
    sizes = " + ".join(f"{count:,}" for count in manifest["sentences"])
    print(f"{args.out} is complete: {sizes} = {sum(manifest['sentences']):,} sentences by {args.by}\n")
    tables = [size_table(found), mean_table(found), *([group_table(found)] if "groups" in found else [])]
    print("\n\n".join(map(plain, tables)))
    print(f"\nall figures: {args.out}/differences.md; the part of each sentence: {args.out}/parts/")
    if args.prefix is None:
        print(f"next: fairseq-train {args.out}/part1 ...")


def _read_differences(out) -> dict:
    import json
    from pathlib import Path

    return json.loads((Path(out) / "differences.json").read_text(encoding="utf-8"))


def _text(args, options) -> dict:
    from fairseq_kd.partition.text import partition_text

    for name, given in (("--split", args.split), ("--post-process", args.post_process)):
        if given:
            raise KDError(f"{name} has no effect with --prefix; it is for a data-bin")
    if not args.source_lang or not args.target_lang:
        raise KDError("--prefix needs --source-lang and --target-lang")
    languages = (args.source_lang, args.target_lang)
    return partition_text(args.prefix, args.out, options, languages, domains=args.domains, plot=not args.no_plot)


def _data_bin(args, options) -> dict:
    from fairseq_kd.partition.data_bin import partition_data_bin

    if (args.source_lang is None) != (args.target_lang is None):
        raise KDError("give --source-lang and --target-lang, or neither")
    return partition_data_bin(
        args.data_bin,
        args.out,
        options,
        split=args.split,
        domains=args.domains,
        languages=None if args.source_lang is None else (args.source_lang, args.target_lang),
        post_process=args.post_process,
        plot=not args.no_plot,
    )
