"""`fairseq-kd consolidate`: several models -> one student that learns from all of them, compared with its rivals."""

import os
from pathlib import Path

from fairseq_kd.cli.study import add_run_options, check_run_options
from fairseq_kd.core.errors import KDError

SPEC, STUDY = "consolidation.yaml", "study"  # in --out


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.usage = "fairseq-kd consolidate DATA_BIN --models A:B --updates N --out DIR [options] [options of snakemake]"
    parser.add_argument("data_bin", metavar="DATA_BIN", help="data-bin with the validation and test sets")
    parser.add_argument("--models", required=True, metavar="A:B", help="two or more checkpoints, joined by :")
    parser.add_argument(
        "--start",
        default="best-score",
        metavar="HOW",
        help="the model with which the student begins, chosen on the validation set: best-score, lowest-loss, largest, "
        "random; or a checkpoint (default %(default)s)",
    )
    parser.add_argument(
        "--weights", choices=("equal", "adaptive"), default="equal", help="of the models (default %(default)s)"
    )
    parser.add_argument(
        "--transfer",
        nargs="+",
        default=["own"],
        metavar="SET",
        help="what the student learns from: own, the training set of DATA_BIN with its gold targets; another data-bin, "
        "of whose training set only the sources are used; or files of text (default own)",
    )
    parser.add_argument("--updates", type=int, required=True, metavar="N", help="updates of the student")
    about = "of the student, and of --start random (default %(default)s)"
    parser.add_argument("--seed", type=int, default=1, metavar="N", help=about)
    parser.add_argument(
        "--sections", metavar="FILE", help="YAML file with sections of a study: common, student, kd, decode, ..."
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the result; the same command continues")
    add_run_options(parser.add_argument_group("run"))
    parser.set_defaults(passed_on=[])


def run(args) -> int:
    """Plan and run the study, and print the table; 1 when a stage has failed."""
    from fairseq_kd import register
    from fairseq_kd.artifacts.writing import ensure_writable_folder
    from fairseq_kd.study.api import write_spec
    from fairseq_kd.study.check import check_folder, open_plan
    from fairseq_kd.study.consolidation import Consolidation, consolidation_spec, read_sections_file
    from fairseq_kd.study.consolidation_result import RESULT, format_outcome, write_outcome
    from fairseq_kd.study.run import RunOptions, run_study

    check_run_options(args)
    if refused := {"--dry-run", "--dryrun", "-n"} & set(args.passed_on):
        raise KDError(f"{refused.pop()}: no effect with consolidate; `fairseq-kd study plan` shows the study that it "
                      "has written to --out; leave it out")  # fmt: skip
    register()
    out = Path(args.out).absolute()
    request = Consolidation(
        args.data_bin, tuple(args.models.split(":")), args.start, args.weights, _transfer(args.transfer), args.updates,
        read_sections_file(args.sections), args.seed,
    )  # fmt: skip
    content, no_soup = consolidation_spec(request)
    _check_out(out)
    check_folder(out / STUDY)
    ensure_writable_folder(out)
    spec = write_spec(content, out / SPEC)
    plan = open_plan(spec, out / STUDY, old_stages=args.old_stages)
    options = RunOptions(args.jobs, args.threads, args.cpu, passed_on=tuple(args.passed_on))
    if status := run_study(plan, out / STUDY, options):
        return status
    print(format_outcome(write_outcome(plan, out / STUDY, out, request, no_soup)))
    print(f"wrote {out / RESULT}")
    return 0


def _transfer(given: list[str]):
    """The value of --transfer: "own", a data-bin, or a list of files. Raises KDError for a mixture."""
    folders = [name for name in given if name == "own" or os.path.isdir(name)]
    if folders and len(given) > 1:
        raise KDError(f"--transfer {' '.join(given)}: give own, one data-bin, or files of text")
    return folders[0] if folders else given


def _check_out(out: Path) -> None:
    """Raises KDError unless `out` is a folder of this command, is empty or does not exist."""
    names = {path.name for path in out.iterdir() if path.name[0] != "."} if out.is_dir() else set()
    if out.is_file() or (names and SPEC not in names):
        raise KDError(f"{out} exists and was not written by fairseq-kd consolidate: choose another --out")
