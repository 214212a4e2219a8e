"""`fairseq-kd evaluate`: checkpoint -> translations -> scores with intervals and signatures, and other measures."""

import os
from pathlib import Path

from fairseq_kd.artifacts.records import write_record
from fairseq_kd.artifacts.writing import ensure_writable_file
from fairseq_kd.cli.changes import add_change_arguments, change_options
from fairseq_kd.cli.translation import (
    add_backend_arguments,
    add_decoding_arguments,
    backend_options,
    decoding_options,
    note_dictionary_check,
)
from fairseq_kd.cli.user_dir import add_lang_pair, add_user_dir
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import listed
from fairseq_kd.evaluation.backend import BackendOptions
from fairseq_kd.evaluation.calibration import BINS, check_diagram, draw_reliability
from fairseq_kd.evaluation.changes_plot import draw_changes
from fairseq_kd.evaluation.evaluate import evaluate
from fairseq_kd.evaluation.gap import GapOptions
from fairseq_kd.evaluation.measures import Measures, TeacherOptions
from fairseq_kd.evaluation.other_metrics import load_metrics
from fairseq_kd.evaluation.results import summary
from fairseq_kd.evaluation.robustness import KINDS as NOISES
from fairseq_kd.evaluation.robustness import NoiseLevels
from fairseq_kd.evaluation.segment_changes import CompareTo
from fairseq_kd.inference.precision import LOSS_DTYPES


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument("data_bin", metavar="DATA_BIN")
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="FILE[:FILE]",
        help="checkpoint made by fairseq-train, or several as an ensemble",
    )
    parser.add_argument("--subset", default="test", help="valid, test, test1, ... (default %(default)s)")
    parser.add_argument("--out", metavar="FILE.json", help="write the result here, with all hypotheses and references")
    parser.add_argument("--trust-checkpoint", metavar="FILE", help="load this checkpoint even if it holds code")
    add_lang_pair(parser)
    parser.add_argument(
        "--confidence-n",
        type=int,
        default=1000,
        metavar="N",
        help="resamples of the bootstrap intervals; 0: no intervals (default %(default)s)",
    )
    _add_measures(parser)
    _add_changes(parser)
    add_decoding_arguments(parser)
    add_backend_arguments(parser)
    add_user_dir(parser)


def _add_measures(parser) -> None:
    group = parser.add_argument_group("measures that take more time")
    group.add_argument("--calibration", action="store_true", help="given gold prefixes: ECE, NLL and Brier score")
    group.add_argument(
        "--bins", type=int, metavar="N", help=f"number of bins of equal mass, for --calibration (default {BINS})"
    )
    group.add_argument(
        "--loss-dtype",
        choices=LOSS_DTYPES,
        help="type of the products of --calibration and --gap; bfloat16: on a CPU with instructions for it (default "
        "float32, or float16 with --fp16)",
    )
    group.add_argument("--diagram", metavar="FILE", help="draw --calibration: .png, .svg or .pdf, by matplotlib")
    group.add_argument(
        "--teacher", metavar="FILE[:FILE]", help="agreement with this teacher or ensemble: top-1 tokens, BLEU"
    )
    group.add_argument("--teacher-data", metavar="DIR", help="folder of the teacher's dictionaries, if they were moved")
    group.add_argument(
        "--noise-levels",
        type=float,
        nargs="+",
        metavar="P",
        help="BLEU with P %% of the source's words noised, at each P; 0 is the subset as it is",
    )
    group.add_argument("--noise", choices=NOISES, help="operation of the noise; mix: a third each (default mix)")
    group.add_argument("--noise-seed", type=int, metavar="S", help="seed of the noise (default 1)")
    group.add_argument(
        "--gap", action="store_true", help="overfitting: the loss per token on the subset and on the training set"
    )
    group.add_argument("--gap-data", metavar="DIR", help="data-bin of the training, for --gap (default DATA_BIN)")
    group.add_argument("--gap-seed", type=int, metavar="S", help="seed of the sample of --gap (default 1)")
    group.add_argument(
        "--metric",
        nargs="+",
        action="extend",
        metavar="[NAME=]MODULE:CALLABLE",
        help="other metrics: functions of installed packages, whose code is run with sources, hypotheses and "
        "references. Give this option after DATA_BIN",
    )
    group.add_argument(
        "--latency", type=int, metavar="N", help="time N sentences, one at a time: median and 95th percentile"
    )


def _add_changes(parser) -> None:
    group = parser.add_argument_group("learning and forgetting since an earlier result")
    group.add_argument(
        "--compare-to",
        metavar="BEFORE.json",
        help="result of `evaluate --out` on the same subset: the shares of segments that are better and worse now",
    )
    add_change_arguments(group, "--compare-to")


def options_of(args) -> BackendOptions:
    """The checked backend. A study calls this before anything runs: the other options may depend on the device."""
    return backend_options(args)


def run(args) -> None:
    """Evaluate and print."""
    backend = options_of(args)
    measures = _measures(args)
    for path in (args.out, args.diagram):
        if path is not None:
            ensure_writable_file(path)  # before the work, not after it
    result = evaluate(
        args.data_bin,
        args.checkpoint,
        args.subset,
        decoding_options(args),
        reference=args.reference,
        post_process=args.post_process,
        tokenize=args.tokenize,
        trust=args.trust_checkpoint if args.trust_checkpoint in listed(args.checkpoint) else False,
        measures=measures,
        backend=backend,
        lang_pair=args.lang_pair,
    )
    if args.out is not None:  # before anything is printed
        write_record(args.out, result)
    if args.diagram is not None:
        draw_reliability(result["calibration"], args.diagram)
    if args.changes_plot is not None:
        draw_changes([result["changes"]], args.changes_plot)
    print("\n".join(summary(result)))
    note_dictionary_check(result)
    for path in filter(None, (args.out, args.diagram, args.changes_plot)):
        print(f"wrote {path}")


def _measures(args) -> Measures:
    """The measures that the options request. Raises KDError for values out of range and for options without effect."""
    for name in ("bins", "diagram"):
        if getattr(args, name) is not None and not args.calibration:
            raise KDError(f"--{name} has no effect without --calibration")
    if args.loss_dtype is not None and not (args.calibration or args.gap):
        raise KDError("--loss-dtype has no effect without --calibration or --gap")
    if args.teacher_data is not None and args.teacher is None:
        raise KDError("--teacher-data has no effect without --teacher")
    noise = _given(kind=args.noise, seed=args.noise_seed)
    if noise and args.noise_levels is None:
        raise KDError("--noise and --noise-seed have no effect without --noise-levels")
    gap = _given(data=args.gap_data, seed=args.gap_seed)
    if gap and not args.gap:
        raise KDError("--gap-data and --gap-seed have no effect without --gap")
    for name in ("bins", "latency"):
        if getattr(args, name) == 0:  # inside, 0 stands for an option that was not given
            raise KDError(f"--{name} 0: must be at least 1")
    if args.diagram is not None:
        check_diagram(args.diagram)
    return Measures(
        resamples=args.confidence_n,
        bins=(BINS if args.bins is None else args.bins) if args.calibration else 0,
        latency=args.latency or 0,
        teacher=_teacher(args),
        noise=None if args.noise_levels is None else NoiseLevels(tuple(args.noise_levels), **noise),
        metrics=load_metrics(args.metric),
        gap=GapOptions(**gap) if args.gap else None,
        loss_dtype=args.loss_dtype or "float32",
        compare_to=_compare_to(args),
    )


def _compare_to(args) -> CompareTo | None:
    """The earlier result. Raises KDError when --out names its file too."""
    options = change_options(args, "--compare-to")
    if options is None:
        return None
    if args.out is not None and Path(args.out).resolve() == Path(args.compare_to).resolve():
        raise KDError(f"--out {args.out} is the result of --compare-to: it would be lost; give another name")
    return CompareTo(args.compare_to, options)


def _given(**options) -> dict:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def _teacher(args) -> TeacherOptions | None:
    """The options of --teacher. Raises KDError when trust is given to a file that is not opened."""
    trust = args.trust_checkpoint
    others = (args.teacher or "").split(os.pathsep)
    if trust is not None and trust not in (*listed(args.checkpoint), *others):
        raise KDError(f"--trust-checkpoint {trust} is not the --checkpoint {args.checkpoint}, and no --teacher")
    if args.teacher is None:
        return None
    return TeacherOptions(args.teacher, args.teacher_data, trust if trust in others else None)
