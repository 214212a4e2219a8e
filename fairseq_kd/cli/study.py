"""`fairseq-kd study`: a whole experiment from one YAML file."""

from pathlib import Path

from fairseq_kd.cli import study_init
from fairseq_kd.cli.study_options import check_options
from fairseq_kd.core.errors import KDError
from fairseq_kd.study.state import CHOICES, SHOW

ACTIONS = {
    "init": "write a commented spec for --data, --teacher and --question",
    "plan": "show the cells, the stages and the time they take; nothing is run",
    "run": "run the study, or continue it",
    "status": "show which cells and stages are done, running, failed or waiting",
    "report": "write report.html, report.md, cells.csv and plots/ from what is done so far",
}


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.usage = (
        "fairseq-kd study init SPEC --data DATA --question Q [options]\n"
        "       fairseq-kd study ACTION SPEC --out WORK [options] [options of snakemake]"
    )
    actions = "; ".join(f"{name}: {text}" for name, text in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help=actions)
    parser.add_argument("spec", metavar="SPEC", help="a YAML file, or the name of one in configs/studies")
    add_folders(parser, required=False)
    study_init.add_arguments(parser)
    parser.add_argument("--calibrate", action="store_true", help="plan: measure unknown durations by a few updates")
    parser.add_argument("--latex", action="store_true", help="report: also write each table as LaTeX into tables/")
    group = parser.add_argument_group("run")
    add_run_options(group)
    group.add_argument("--dry-run", action="store_true", help="only print what Snakemake would do")
    group.add_argument("--with-report", action="store_true", help="then write the report, even if stages have failed")
    parser.set_defaults(passed_on=[])


def add_folders(parser, required: bool = True) -> None:
    """Declare the folder of a study or search, and its data. required: whether the parser asks for the folder."""
    parser.add_argument(
        "--out", required=required, metavar="WORK", help="folder of everything that is made; the same command continues"
    )
    parser.add_argument(
        "--recipe", metavar="NAME", help="take data and models from another recipe of the quickstart, or from a file"
    )
    parser.add_argument("--raw", metavar="DIR", help="folder with the raw files")


def add_run_options(parser) -> None:
    """Declare how stages are run."""
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="stages at a time (default: one per core, or per GPU if there are more GPUs)",
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads per stage (default %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="do not use CUDA")
    parser.add_argument(
        "--old-stages",
        choices=CHOICES,
        help="what to do with stages that other versions made; required if there are any",
    )


def check_run_options(args) -> None:
    """Raises KDError for numbers below 1."""
    for name in ("jobs", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise KDError(f"--{name} {getattr(args, name)}: must be at least 1")


def run(args) -> int | None:
    """Run the action."""
    from fairseq_kd import register
    from fairseq_kd.study.check import check_same_study, open_plan
    from fairseq_kd.study.plan import PLAN_NAME

    check_options(args)
    check_run_options(args)
    register()
    if args.action == "init":
        return study_init.run(args)
    work = Path(args.out).absolute()
    plan = open_plan(args.spec, work, args.recipe, args.raw, args.old_stages if args.action == "run" else SHOW)
    if args.action in ("status", "report"):
        check_same_study(plan, work)
    if args.action == "plan":
        from fairseq_kd.study.durations import calibrate
        from fairseq_kd.study.show import format_plan

        if args.calibrate:
            calibrate(plan, work, args.threads)
        print(format_plan(plan, work))
    elif args.action == "run":
        from fairseq_kd.study.run import RunOptions, run_study

        options = RunOptions(args.jobs, args.threads, args.cpu, args.dry_run, tuple(args.passed_on))
        status = run_study(plan, work, options)
        if args.with_report:
            _report(plan, work)
        return status
    elif args.action == "status":
        from fairseq_kd.study.show import format_status

        print(format_status(plan, work))
    else:
        if not (work / PLAN_NAME).is_file():
            raise KDError(f"{work} holds no study yet: fairseq-kd study run {args.spec} --out {args.out}")
        _report(plan, work, args.latex)
    return None


def _report(plan, work: Path, latex: bool = False) -> None:
    """Write the report, and print it and where it is."""
    from fairseq_kd.study.report.write import describe_files, write_report

    print(write_report(plan, work, latex))
    print(describe_files(work))
