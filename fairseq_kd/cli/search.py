"""`fairseq-kd search`: train with different options of word-level distillation, and choose the best ones."""

from dataclasses import replace
from pathlib import Path

from fairseq_kd.cli.study import add_folders, add_run_options, check_run_options
from fairseq_kd.core.errors import KDError


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.usage = "fairseq-kd search SPEC --out WORK [options] [options of snakemake]"
    parser.add_argument("spec", metavar="SPEC", help="a YAML file, or the name of one in configs/searches")
    add_folders(parser)
    add_run_options(parser)
    parser.set_defaults(passed_on=[])


def run(args) -> int:
    """Search, or continue the search."""
    check_run_options(args)
    if refused := {"--dry-run", "--dryrun", "-n"} & set(args.passed_on):
        raise KDError(f"{refused.pop()}: no effect with search, which knows what to train next by the scores of what "
                      "it has trained; leave it out")  # fmt: skip
    from fairseq_kd import register
    from fairseq_kd.search.run import run_search
    from fairseq_kd.search.spec import load_search
    from fairseq_kd.study.check import check_folder
    from fairseq_kd.study.run import RunOptions
    from fairseq_kd.study.spec import spec_path
    from fairseq_kd.study.state import OlderStages

    register()
    work = Path(args.out).absolute()
    check_folder(work)
    search = load_search(spec_path(args.spec, "searches"), recipe=args.recipe, raw=args.raw)
    options = RunOptions(args.jobs, args.threads, args.cpu, passed_on=tuple(args.passed_on))
    return run_search(replace(search, older=OlderStages(work, args.old_stages)), work, options)
