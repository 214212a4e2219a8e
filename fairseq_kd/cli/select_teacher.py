"""`fairseq-kd select-teacher`: the checkpoints of a training, or several models -> the one that is chosen."""

import sys
from dataclasses import fields
from pathlib import Path

from fairseq_kd.cli.translation import add_tokenize_argument
from fairseq_kd.cli.user_dir import add_lang_pair, add_user_dir
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import USER_DIR
from fairseq_kd.corpus.subword import KINDS
from fairseq_kd.evaluation.average import names_of
from fairseq_kd.evaluation.candidates import is_folder
from fairseq_kd.evaluation.checkpoints import Measurements
from fairseq_kd.evaluation.select_teacher import (
    BY_CHANCE,
    CHOICES,
    MEASURED,
    RESULT,
    WAYS,
    AverageOptions,
    select,
)
from fairseq_kd.evaluation.system import TranslateOptions
from fairseq_kd.inference.precision import LOSS_DTYPES

DECODING = {
    "beam": "beam size (default %(default)s)",
    "lenpen": "length penalty (default %(default)s)",
    "max_len_a": "the longest output has a x source + b tokens",
    "max_len_b": "b of --max-len-a (default %(default)s)",
    "max_tokens": "tokens per batch (default %(default)s)",
    "fp16": "half precision, on CUDA; the loss is computed as --loss-dtype says",
    "cpu": "do not use CUDA",
}


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument("data_bin", metavar="DATA_BIN")
    parser.add_argument(
        "--checkpoints", required=True, metavar="DIR|A:B", help="the --save-dir of a training, or models joined by :"
    )
    parser.add_argument(
        "--by",
        required=True,
        choices=WAYS,
        help="the lowest loss (nll in bits per token, given gold prefixes), the highest score (BLEU), the most "
        "parameters, or by chance",
    )
    parser.add_argument("--seed", type=int, help="of --by random (1)")
    parser.add_argument("--subset", default="valid", help="subset to measure on (default %(default)s)")
    parser.add_argument(
        "--loss-dtype",
        choices=LOSS_DTYPES,
        default="float32",
        help="type of the products of the loss, not of the decoding; bfloat16: on a CPU that has instructions for it "
        "(default %(default)s)",
    )
    parser.add_argument("--last", type=int, metavar="N", help="only the N checkpoints with the most updates")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder of measurements and selection.json; the same command continues (default DIR/selection)",
    )
    parser.add_argument(
        "--trust-checkpoint",
        metavar="FILE",
        action="append",
        default=[],
        help="load this checkpoint or average even if it holds code; can be given several times",
    )
    add_lang_pair(parser)
    add_tokenize_argument(parser)
    group = parser.add_argument_group("averaging")
    group.add_argument("--average", type=int, metavar="N", help="also measure the mean of the weights of the best N")
    group.add_argument("--out-checkpoint", metavar="FILE", help="where --average is written")
    group = parser.add_argument_group("decoding, as for fairseq-kd evaluate")
    for field in fields(TranslateOptions):
        name, text = f"--{field.name.replace('_', '-')}", DECODING[field.name]
        if field.type is bool:
            group.add_argument(name, action="store_true", help=text)
        else:
            group.add_argument(name, type=field.type, default=field.default, help=text)
    _add_text(parser)
    add_user_dir(parser)


def _add_text(parser) -> None:
    group = parser.add_argument_group("for a data-bin made by fairseq-preprocess")
    group.add_argument("--reference", metavar="FILE", help="plain-text references, one sentence per line")
    group.add_argument("--post-process", choices=KINDS, help="how subwords are joined")


def run(args) -> None:
    """Measure, choose, and print the table."""
    if (args.average is None) != (args.out_checkpoint is None):
        raise KDError("--average N and --out-checkpoint FILE belong together: give both or neither")
    seed = _seed(args)
    average = None if args.average is None else AverageOptions(args.average, Path(args.out_checkpoint))
    if args.out is None and not is_folder(args.checkpoints) and ":" in args.checkpoints:
        raise KDError("--checkpoints names several files, which have no folder of their own: give --out DIR")
    out = Path(args.out or Path(args.checkpoints) / "selection")
    measurements = Measurements(
        out / MEASURED,
        args.data_bin,
        args.subset,
        TranslateOptions(**{field.name: getattr(args, field.name) for field in fields(TranslateOptions)}),
        reference=args.reference,
        post_process=args.post_process,
        tokenize=args.tokenize,
        loss_dtype=args.loss_dtype,
        lang_pair=args.lang_pair,
    )
    trusted = args.trust_checkpoint
    given = {"last": args.last, "average": average, "trusted": trusted, "seed": seed}
    result = select(measurements, args.checkpoints, args.by, out, **given)
    print(format_table(result))
    if any(row["dictionary_check"] == "size" for row in result["checkpoints"]):
        print(
            "note: the dictionaries of the training are no longer where the checkpoints say, so only their size was "
            "compared with the dictionaries of DATA_BIN",
            file=sys.stderr,
        )
    print(f"\n{args.by} {'teacher' if args.by in CHOICES else 'model'}: {result['chosen']}")
    print(f"wrote {out / RESULT}")
    print(f"next: fairseq-train {args.data_bin} ... {USER_DIR} --criterion kd_word --teacher {result['chosen']}")


def _seed(args) -> int:
    """The seed of --by random. Raises KDError beside another --by, and below 0."""
    if args.seed is None:
        return 1
    if args.by != BY_CHANCE:
        raise KDError(f"--seed {args.seed} has no effect with --by {args.by}: nothing is drawn; leave it out")
    if args.seed < 0:
        raise KDError(f"--seed {args.seed}: must be 0 or above")
    return args.seed


def format_table(result: dict) -> str:
    """One line per checkpoint, then copies of the same content and the signature of the score."""
    lines = [("checkpoint", "updates", "nll (bits)", "BLEU", "")]
    rows = result["checkpoints"]
    names = names_of([Path(row["checkpoint"]) for row in rows])
    for name, row in zip(names, rows, strict=True):
        marks = [name for name in CHOICES if result[name] == row["checkpoint"]]
        updates = "" if row["updates"] is None else f"{row['updates']:,}"
        lines.append((name, updates, f"{row['nll']:.3f}", f"{row['bleu']:.2f}", ", ".join(marks)))
    width = max(len(line[0]) for line in lines)
    table = [f"{name:<{width}}{u:>10}{nll:>12}{bleu:>8}  {marks}".rstrip() for name, u, nll, bleu, marks in lines]
    table.insert(1, "-" * max(map(len, table)))
    for name, row in zip(names, rows, strict=True):
        if row["same"]:
            table.append(f"{', '.join(row['same'])}: the same as {name}")
        if "averaged_from" in row:
            table.append(f"{name}: the average of {', '.join(row['averaged_from'])}")
    return "\n".join([*table, rows[0]["signature"]])
