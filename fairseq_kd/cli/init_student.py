"""`fairseq-kd init-student`: a student that begins with weights of its teacher."""

from pathlib import Path

from fairseq_kd.cli.user_dir import add_user_dir
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import USER_DIR
from fairseq_kd.models.initialise import CHOICES


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.usage = (
        "fairseq-kd init-student --teacher T --arch A --out C [--layers skip|first|last] [--data DATA_BIN] "
        "[options of the model, as for fairseq-train]"
    )
    parser.add_argument("--teacher", required=True, metavar="FILE", help="checkpoint of the teacher")
    parser.add_argument("--arch", required=True, help="architecture of the student, such as kd_student or transformer")
    parser.add_argument(
        "--layers",
        choices=CHOICES,
        default="skip",
        help="layers of the teacher that are taken. skip: evenly spaced (default)",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="checkpoint to write, for --finetune-from-model")
    parser.add_argument(
        "--data",
        metavar="DATA_BIN",
        help="data-bin with the dictionaries (default: the one that the checkpoint records)",
    )
    parser.add_argument("--trust-checkpoint", metavar="FILE", help="load --teacher even if it holds code")
    add_user_dir(parser)
    parser.set_defaults(passed_on=[])


def run(args) -> None:
    """Write the student's checkpoint."""
    from omegaconf import open_dict

    from fairseq_kd.inference.checkpoint import read_checkpoint, write_initial_checkpoint
    from fairseq_kd.inference.frozen import build_model, configure_own_task
    from fairseq_kd.inference.multilingual import multilingual_task
    from fairseq_kd.inference.multilingual_options import first_pair
    from fairseq_kd.models.building import build
    from fairseq_kd.models.initialise import check_fit, initial_weights

    if args.trust_checkpoint not in (None, args.teacher):
        raise KDError(f"--trust-checkpoint {args.trust_checkpoint} is not the --teacher {args.teacher}")
    if Path(args.out).exists() and Path(args.out).samefile(args.teacher):
        raise KDError(f"--out {args.out} is the teacher itself: give another file")
    trust = args.trust_checkpoint is not None
    state = read_checkpoint(args.teacher, trust=trust)
    languages = first_pair(args.teacher, state["cfg"].task)
    configure_own_task(args.teacher, state, args.data, languages, "--data", language_tokens=True)
    teacher, task = build_model(args.teacher, state, trust)
    data = str(Path(state["cfg"].task.data).absolute())  # a word of a command line below: it must be no option
    student, model_args = build(args.arch, data, args.passed_on, device="cpu", task=task)
    check_fit(state["cfg"].model, model_args)
    weights = initial_weights(teacher, student, args.layers)
    with open_dict(state["cfg"]):
        state["cfg"].model = model_args
    write_initial_checkpoint(args.out, state, weights)
    size = sum(parameter.numel() for parameter in student.parameters())
    print(f"{args.out}: {size:,} parameters, {args.layers} layers of {args.teacher}")
    options = " ".join(["--arch", args.arch, *args.passed_on, "--finetune-from-model", args.out])
    if name := multilingual_task(state["cfg"].task):
        options = f"--task {name} {options}, and the options of this task as for the teacher"
    print(f"to train it: fairseq-train ... {USER_DIR} {options}")
