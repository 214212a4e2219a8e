"""`fairseq-kd count`: the size of an architecture, before anything is trained."""

from fairseq_kd.cli.user_dir import add_user_dir
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_data_bin


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.usage = "fairseq-kd count --arch A --data DATA_BIN [--length L] [options of the model, as for fairseq-train]"
    parser.add_argument("--arch", required=True, help="architecture, such as kd_student_9m")
    parser.add_argument("--data", required=True, metavar="DATA_BIN", help="data-bin whose dictionaries the model uses")
    parser.add_argument(
        "--length", type=int, default=30, help="tokens of the source and of the target (default %(default)s)"
    )
    add_user_dir(parser)
    parser.set_defaults(passed_on=[])


def run(args) -> None:
    """Build the model without its weights, and print."""
    from fairseq_kd.models.building import build
    from fairseq_kd.models.count import operations_per_token, parameters_by_part

    if args.length < 1:
        raise KDError(f"--length {args.length}: must be at least 1")
    check_data_bin(args.data, "--data")
    model, _ = build(args.arch, args.data, args.passed_on)
    counts = parameters_by_part(model)
    for part, number in counts.items():
        note = "  (the embeddings, tied)" if part == "output projection" and number == 0 else ""
        print(f"{part:34} {number:14,}{note}")
    print(f"{'parameters':34} {sum(counts.values()):14,}")
    operations = operations_per_token(model, args.length)
    print()
    for part, number in operations.items():
        print(f"{part:34} {number:14,.0f}")
    print(f"{'operations per target token':34} {sum(operations.values()):14,.0f}")
    print(f"forward pass, {args.length} source and {args.length} target tokens, a multiply-add counted as 2")
