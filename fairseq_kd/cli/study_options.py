"""Which options belong to which action of `fairseq-kd study`."""

import sys

from fairseq_kd.cli import study_init
from fairseq_kd.core.errors import KDError

OF_RUN = ("jobs", "cpu", "dry_run", "with_report", "old_stages")


def check_options(args) -> None:
    """Raises KDError for options that have no effect with the action, and without the folder of a study."""
    if args.action == "init":
        _check_init(args)
        return
    if given := study_init.given_options(args):
        raise KDError(f"{' '.join(given)}: no effect with study {args.action}, only with study init")
    if args.out is None:
        raise KDError(f"study {args.action} needs --out WORK, the folder of everything that is made")
    if args.action != "run":
        _check_options_of_run(args)
    elif args.with_report and args.dry_run:
        raise KDError("--with-report has no effect with --dry-run, which makes no results")
    for option, action in (("calibrate", "plan"), ("latex", "report")):
        if getattr(args, option) and args.action != action:
            raise KDError(f"--{option} has no effect with study {args.action}, only with study {action}")


def _check_init(args) -> None:
    given = _given(args, ("out", "recipe", "raw", "calibrate", "latex", *OF_RUN)) + args.passed_on
    if given or args.threads != 1:
        raise KDError(f"{' '.join(given or ['--threads'])}: no effect with study init")


def _given(args, names: tuple) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name)]


def _check_options_of_run(args) -> None:
    """Name the options of `study run` that were given with another action.

    `status` and `report` accept them, so that the line of a run can be given with another action. Raises KDError with
    `plan`, and for words that neither `run` nor Snakemake knows.
    """
    given = _given(args, OF_RUN)
    given += ["--threads"] if args.threads != 1 and not args.calibrate else []
    given += args.passed_on
    if not given:
        return
    if args.action == "plan":
        raise KDError(f"{' '.join(given)}: no effect with study plan, only with study run")
    if args.passed_on:
        _check_options_of_snakemake(args.passed_on)
    print(f"{' '.join(given)}: no effect with study {args.action}, only with study run", file=sys.stderr)


def _check_options_of_snakemake(words: list[str]) -> None:
    """Raises KDError when Snakemake's parser does not accept the words as options."""
    try:
        from snakemake.cli import get_argument_parser
    except ImportError as error:
        raise KDError(f"{' '.join(words)}: options of Snakemake, which is not installed: leave them out") from error

    def refuse(message: str):
        raise KDError(f"{' '.join(words)}: {message}")

    parser = get_argument_parser()
    parser.error = refuse
    known, others = parser.parse_known_args(words)
    if others := [*others, *known.targets]:
        raise KDError(f"{' '.join(others)}: neither study run nor Snakemake has this option")
