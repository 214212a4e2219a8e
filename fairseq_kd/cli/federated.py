"""`fairseq-kd federated`: one model, trained in rounds on parts of the data that stay apart."""

import yaml

from fairseq_kd.cli.user_dir import add_user_dir
from fairseq_kd.core.errors import KDError
from fairseq_kd.federated.spec import KEYS

PLACES = ("parts", "data", "start")  # keys whose value can be a path


def add_arguments(parser) -> None:
    """Declare the options."""
    about = "YAML file, like configs/federated/*.yaml, or the name of one; without it the options give all keys"
    parser.add_argument("spec", metavar="SPEC", nargs="?", help=about)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the run; the same command continues it")
    parser.add_argument("--app", action="store_true", help="write what flwr run needs for a real federation, and end")
    parser.add_argument("--cpu", action="store_true", help="do not use CUDA")
    group = parser.add_argument_group("keys of the spec", "VALUE is YAML; keys of common, student, evaluate are merged")
    for key in KEYS:
        group.add_argument(f"--{key}", metavar="VALUE", help=f"{key} in place of that of the spec")
    add_user_dir(parser)


def run(args) -> None:
    """Run or continue, then print the table."""
    from fairseq_kd import register
    from fairseq_kd.federated.report import write_report
    from fairseq_kd.federated.run import check_flower, run_federated, write_federation

    check_flower()
    spec = options_of(args)
    register()
    if args.app:
        print(write_federation(spec, args.out, args.cpu))
        return
    result = run_federated(spec, args.out, args.cpu)
    print(write_report(result, args.out))


def options_of(args):
    """The checked spec of parsed arguments. Raises KDError."""
    from fairseq_kd.federated.spec import load_spec, spec_path

    changes = {key: _value(key, given) for key in KEYS if (given := getattr(args, key.replace("-", "_"))) is not None}
    return load_spec(None if args.spec is None else spec_path(args.spec), changes)


def _value(key: str, given: str):
    if key in PLACES and given.startswith(("/", "@")):  # @: a word of a study
        return given
    try:
        return yaml.safe_load(given)
    except yaml.YAMLError as error:
        raise KDError(f"--{key} {given}: is not YAML: {' '.join(str(error).split())}") from error
