"""`fairseq-kd count`: the size of an architecture, before anything is trained."""

import contextlib
import io
import warnings
from pathlib import Path

from fairseq_kd.errors import KDError


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.usage = "fairseq-kd count --arch A --data DATA_BIN [--length L] [options of the model, as for fairseq-train]"
    parser.add_argument("--arch", required=True, help="such as kd_student_9m")
    parser.add_argument("--data", required=True, metavar="DATA_BIN", help="its dictionaries are those of the model")
    parser.add_argument("--length", type=int, default=30, help="tokens of source and target (default %(default)s)")
    parser.set_defaults(passed_on=[])


def run(args) -> None:
    """Build the model without its weights, and print."""
    from fairseq_kd import register
    from fairseq_kd.models.count import operations_a_token, parameters_by_part

    if args.length < 1:
        raise KDError(f"--length {args.length}: must be at least 1")
    if not Path(args.data).is_dir():
        raise KDError(f"--data {args.data} is not a folder")
    register()
    model, _ = build(args.arch, args.data, args.passed_on)
    counts = parameters_by_part(model)
    for part, number in counts.items():
        note = "  (the embeddings, tied)" if part == "output projection" and number == 0 else ""
        print(f"{part:34} {number:14,}{note}")
    print(f"{'parameters':34} {sum(counts.values()):14,}")
    operations = operations_a_token(model, args.length)
    print()
    for part, number in operations.items():
        print(f"{part:34} {number:14,.0f}")
    print(f"{'operations a target token':34} {sum(operations.values()):14,.0f}")
    print(f"forward pass, {args.length} source and {args.length} target tokens, a multiply-add counted as 2")


def build(arch: str, data: str, options: list[str], device: str = "meta"):
    """(model, its options) of fairseq-train's command line; on torch's meta device: shapes without memory.

    Raises KDError when fairseq cannot build it.
    """
    import torch
    from fairseq import tasks
    from fairseq.models import ARCH_MODEL_REGISTRY

    if arch not in ARCH_MODEL_REGISTRY:
        raise KDError(f"--arch {arch} is not known to fairseq or fairseq_kd; the students are kd_student_3m and so on")
    words = [data, "--arch", arch, "--task", "translation", *options]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), torch.device(device):
            cfg = parse(words)
            model = tasks.setup_task(cfg.task).build_model(cfg.model)
    except SystemExit as error:
        if isinstance(error.__cause__, KDError):
            raise error.__cause__ from error
        reason = said.getvalue().strip().splitlines()[-1:] or ["it gave no reason"]
        raise KDError(f"fairseq does not understand {' '.join(options)}: {reason[0]}") from error
    except (AssertionError, AttributeError, FileNotFoundError, TypeError, ValueError) as error:
        raise KDError(f"fairseq cannot build --arch {arch} with {' '.join(words)}: {error}") from error
    if not (hasattr(model, "encoder") and hasattr(model, "decoder")):
        raise KDError(f"--arch {arch} is a {type(model).__name__}; only encoder-decoder models are counted")
    return model, cfg.model


def parse(words: list[str]):
    """fairseq-train's configuration of a command line."""
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Hydra's deprecations of what fairseq does
        return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
