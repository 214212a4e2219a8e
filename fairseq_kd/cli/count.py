"""`fairseq-kd count`: the size of an architecture, or the architecture of a size, before anything is trained."""

from fairseq_kd.cli.user_dir import add_user_dir
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_data_bin

BY_SIZE = ("kd_student", "kd_adaptive")  # architectures whose shape --parameters chooses
SIDES = ("encoder", "decoder")
CHOSEN = ("embed-dim", "ffn-embed-dim", "attention-heads")  # dimensions of each side that --parameters chooses
ROUNDS = 4  # shapes that are built until the sizes of other options are taken into account


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.usage = (
        "fairseq-kd count --arch A --data DATA_BIN [--parameters N] [--length L] [options of the model, as for "
        "fairseq-train]"
    )
    parser.add_argument("--arch", required=True, help="architecture, such as kd_student_9m")
    parser.add_argument("--data", required=True, metavar="DATA_BIN", help="data-bin whose dictionaries the model uses")
    parser.add_argument(
        "--parameters",
        metavar="N",
        help="find the shape of a kd_student or kd_adaptive that is nearest to this size, such as 3M or 800k, and "
        "print its options",
    )
    parser.add_argument(
        "--length", type=int, default=30, help="tokens of the source and of the target (default %(default)s)"
    )
    add_user_dir(parser)
    parser.set_defaults(passed_on=[])


def run(args) -> None:
    """Build the model without its weights, and print."""
    from fairseq_kd.models.building import build

    if args.length < 1:
        raise KDError(f"--length {args.length}: must be at least 1")
    check_data_bin(args.data, "--data")
    if args.parameters is None:
        model, _ = build(args.arch, args.data, args.passed_on)
    else:
        model = _of_size(args)
    print_counts(model, args.length)


def print_counts(model, length: int) -> None:
    """Print the parameters by part, and the operations per target token."""
    from fairseq_kd.models.count import operations_per_token, parameters_by_part

    counts = parameters_by_part(model)
    for part, number in counts.items():
        note = "  (the embeddings, tied)" if part == "output projection" and number == 0 else ""
        print(f"{part:34} {number:14,}{note}")
    print(f"{'parameters':34} {sum(counts.values()):14,}")
    operations = operations_per_token(model, length)
    print()
    for part, number in operations.items():
        print(f"{part:34} {number:14,.0f}")
    print(f"{'operations per target token':34} {sum(operations.values()):14,.0f}")
    print(f"forward pass, {length} source and {length} target tokens, a multiply-add counted as 2")


def _of_size(args):
    """Print the options of the shape that is nearest to --parameters, and return the model."""
    from fairseq_kd.models.shapes import TOLERANCE, read_number

    wish = read_number(args.parameters)
    _check_options(args)
    shape, model, found = _search(args, wish)
    print(" ".join(["--arch", args.arch, *shape.options(), *_others(args.passed_on)]))
    difference = found / wish - 1
    print(f"{found:,} parameters, {abs(difference):.2%} {'above' if difference > 0 else 'below'} the wish {wish:,}")
    if abs(difference) > TOLERANCE:
        print(f"no shape of sensible proportions comes within {TOLERANCE:.0%} of the wish: this is the nearest one")
    print()
    return model


def _check_options(args) -> None:
    from fairseq_kd.models.layers import LAYER_OPTIONS

    if args.arch not in BY_SIZE:
        raise KDError(f"--parameters has no effect with --arch {args.arch}: give --arch {' or '.join(BY_SIZE)}")
    names = [f"--{side}-{name}" for side in SIDES for name in CHOSEN]
    names += ["--like", *(f"--{name.replace('_', '-')}" for name in LAYER_OPTIONS)]
    for word in args.passed_on:
        if (name := word.split("=")[0]) in names:
            raise KDError(f"--parameters chooses the shape, so {name} cannot go with it: leave one of them out")


def _search(args, wish: int):
    """(shape, its model without weights, its parameters).

    Other options of the model can add parameters that the formula of shapes does not have: learned positions, gates.
    Their number is read from a built model, and the shape is searched again for the rest of the wish.
    """
    from fairseq_kd.models.building import build
    from fairseq_kd.models.count import parameter_count
    from fairseq_kd.models.shapes import nearest_shape

    first, options = build(args.arch, args.data, args.passed_on)
    sides = {id(module.embed_tokens): module.embed_tokens for module in (first.encoder, first.decoder)}
    entries = sum(table.num_embeddings for table in sides.values())
    given = {word.split("=")[0] for word in args.passed_on}
    layers = [getattr(options, f"{side}_layers") if f"--{side}-layers" in given else None for side in SIDES]
    tried, added = {}, 0
    for _ in range(ROUNDS):
        shape = nearest_shape(max(1, wish - added), entries, options.ffn_type, layers)
        if shape in tried:
            break
        model, _ = build(args.arch, args.data, [*_others(args.passed_on), *shape.options()])
        tried[shape] = (model, parameter_count(model))
        added = tried[shape][1] - shape.parameters(entries, options.ffn_type)
    shape = min(tried, key=lambda shape: abs(tried[shape][1] - wish))
    return shape, *tried[shape]


def _others(words: list[str]) -> list[str]:
    """The options without the numbers of layers, which the options of a shape hold."""
    layers = [f"--{side}-layers" for side in SIDES]
    pairs = zip(["", *words[:-1]], words, strict=True) if words else ()
    return [word for before, word in pairs if before not in layers and word.split("=")[0] not in layers]
