"""`fairseq-kd compare`: result files -> which differences are real."""

from pathlib import Path

from fairseq_kd.artifacts.records import write_record
from fairseq_kd.artifacts.writing import ensure_writable_file
from fairseq_kd.cli.changes import add_change_arguments, change_options
from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.changes_plot import draw_changes
from fairseq_kd.evaluation.changes_table import changes_table
from fairseq_kd.evaluation.compare import CompareOptions, compare
from fairseq_kd.evaluation.measured import measure, summary
from fairseq_kd.evaluation.results import table
from fairseq_kd.scoring.score import METRICS

EXIT_NOT_BETTER = 1


def add_arguments(parser) -> None:
    """Declare the options."""
    defaults = CompareOptions()
    parser.add_argument(
        "results", nargs="*", metavar="RESULT.json", help="one result per system; the first is the baseline"
    )
    parser.add_argument(
        "--system",
        nargs="+",
        action="append",
        metavar=("NAME", "RESULT.json"),
        help="instead: a system with one result per run. Runs are paired by seed if the system has the seeds of the "
        "first system, the baseline",
    )
    parser.add_argument(
        "--scores-only",
        action="store_true",
        help="no tests: write the scores of each run, and for single runs those of the resamples, from which a study "
        "tests its claims. The systems may have different noise in their sources; needs --system and --out",
    )
    parser.add_argument(
        "--metric",
        default=defaults.metric,
        metavar="NAME",
        help=f"{', '.join(METRICS)}, or the name of a metric of `evaluate --metric` (default %(default)s)",
    )
    parser.add_argument("--out", metavar="FILE.json", help="write the comparison here")
    _add_test_options(parser, defaults)
    _add_segments(parser)


def _add_test_options(parser, defaults: CompareOptions) -> None:
    parser.add_argument(
        "--alpha",
        type=float,
        default=defaults.alpha,
        help="level of significance after Holm's correction (default %(default)s)",
    )
    parser.add_argument(
        "--fail-unless-better",
        action="store_true",
        help=f"exit status {EXIT_NOT_BETTER} unless every system is significantly better than the baseline",
    )
    parser.add_argument(
        "--paired-bs-n",
        type=int,
        default=defaults.resamples,
        metavar="N",
        help="resamples of the paired bootstrap (default %(default)s)",
    )
    parser.add_argument(
        "--paired-ar-n",
        type=int,
        default=defaults.trials,
        metavar="N",
        help="trials of approximate randomisation, unless all exchanges are counted (default %(default)s)",
    )


def _add_segments(parser) -> None:
    group = parser.add_argument_group("learning and forgetting")
    group.add_argument(
        "--segments",
        action="store_true",
        help="the shares of segments that each system translates better and worse than the baseline; several runs are "
        "paired by seed",
    )
    add_change_arguments(group, "--segments")
    group.add_argument("--sources", metavar="FILE", help="source text of the test set, for --show")


def run(args) -> int:
    """Compare and print; exit status 0, or see --fail-unless-better."""
    systems = _systems(args)
    segments = change_options(args, "--segments")
    options = CompareOptions(args.metric, args.paired_bs_n, args.paired_ar_n, args.alpha, segments)
    if args.out is not None:
        ensure_writable_file(args.out)  # before the work, not after it
        if Path(args.out).resolve() in {Path(path).resolve() for files in systems.values() for path in files}:
            raise KDError(f"--out {args.out} is one of the results: it would be lost; give another name")
    if args.scores_only:
        return _scores(args, systems, options)
    comparison = compare(systems, options)
    if args.out is not None:
        write_record(args.out, comparison)
    if args.changes_plot is not None:
        draw_changes(comparison["changes"], args.changes_plot)
    print("\n".join(table(comparison)))
    for entry in comparison.get("changes", []):
        print("\n".join(["", *changes_table(entry)]))
    for path in filter(None, (args.out, args.changes_plot)):
        print(f"wrote {path}")
    better = all(system["verdict"] == "better" for system in comparison["systems"][1:])
    return EXIT_NOT_BETTER if args.fail_unless_better and not better else 0


def _scores(args, systems: dict, options: CompareOptions) -> int:
    """Write the scores without tests."""
    if not args.system or args.out is None:
        raise KDError("--scores-only needs --system for each system, and --out for the file with the scores")
    if args.segments:
        raise KDError("--segments has no effect with --scores-only, which compares nothing; leave one of them out")
    if args.fail_unless_better:
        raise KDError(
            "--fail-unless-better has no effect with --scores-only, which tests nothing; leave one of them out"
        )
    measured = measure(systems, options.metric, options.resamples)
    write_record(args.out, measured)
    print("\n".join([*summary(measured), f"wrote {args.out}"]))
    return 0


def _systems(args) -> dict[str, list[str]]:
    """Name -> files, in order."""
    if args.results and args.system:
        raise KDError("give either files, one a system, or --system NAME FILE ... for each system; not both")
    if not args.system:
        return {path: [path] for path in _each_once(args.results, "is given twice: each system is compared once")}
    for words in args.system:
        if Path(words[0]).is_file():
            raise KDError(f"--system {words[0]}: that is a file; a name comes first, then the results")
        if len(words) < 2:
            raise KDError(f"--system {words[0]}: a name and at least one result are needed")
    _each_once([words[0] for words in args.system], "is the name of two systems; choose another")
    return {name: files for name, *files in args.system}


def _each_once(names: list[str], problem: str) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise KDError(f"{name} {problem}")
    return names
