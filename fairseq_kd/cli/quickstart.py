"""`fairseq-kd quickstart`: a teacher, a plain student and a distilled student, with BLEU and its signature."""

from pathlib import Path

from fairseq_kd.core.errors import KDError
from fairseq_kd.quickstart.recipe import available_recipes, find_recipe, load_recipe
from fairseq_kd.quickstart.run import run_quickstart
from fairseq_kd.quickstart.table import format_table


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--data", choices=available_recipes(), help="recipe that comes with fairseq_kd (default synthetic)"
    )
    parser.add_argument("--recipe", metavar="FILE", help="your own recipe, like configs/quickstart/*.yaml")
    parser.add_argument(
        "--raw", metavar="DIR", help="folder with the raw files; named corpora are downloaded without it"
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of students of each kind (default %(default)s)")
    parser.add_argument("--data-bin", metavar="DIR", help="data-bin to make (default data-bin/quickstart-NAME)")
    parser.add_argument("--out", metavar="DIR", help="folder of the runs (default runs/quickstart-NAME)")
    parser.add_argument("--cpu", action="store_true", help="do not use CUDA")


def run(args) -> None:
    """Run or continue, then print the table."""
    from fairseq_kd import register

    if args.seeds < 1:
        raise KDError(f"--seeds {args.seeds}: must be at least 1")
    if args.data is not None and args.recipe is not None:
        raise KDError("--data names a recipe that comes with fairseq_kd and --recipe one of yours: give one of them")
    data = args.data or "synthetic"
    recipe = load_recipe(args.recipe or find_recipe(data))
    name = recipe.data["name"]
    if args.raw is not None and name == "synthetic":
        raise KDError("--raw has no effect with the synthetic corpus: it is generated")
    if args.raw is None and name == "text":
        raise KDError("a recipe for your own text needs --raw DIR")
    stem = Path(args.recipe).stem if args.recipe else data
    data_bin = args.data_bin or f"data-bin/quickstart-{stem}"
    out = args.out or f"runs/quickstart-{stem}"
    register()
    rows = run_quickstart(recipe, data_bin, out, args.seeds, raw=args.raw, cpu=args.cpu)
    print(format_table(rows))
    print(rows[0]["result"]["bleu"]["signature"])
    print(rows[0]["result"]["chrf"]["signature"])
    print(f"\ndata:   {data_bin}\nruns:   {out}/*/ with checkpoints/, train.log, train.json (the command), result.json")
