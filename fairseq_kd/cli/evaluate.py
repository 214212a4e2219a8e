"""`fairseq-kd evaluate`: checkpoint -> translations -> BLEU and chrF with signatures."""

import sys
from pathlib import Path

from fairseq_kd.corpus.manifest import ensure_writable_folder, write_json
from fairseq_kd.corpus.subword import KINDS
from fairseq_kd.errors import KDError
from fairseq_kd.evaluation.evaluate import evaluate
from fairseq_kd.evaluation.translate import TranslateOptions


def add_arguments(parser) -> None:
    """Declare the options."""
    defaults = TranslateOptions()
    parser.add_argument("data_bin", metavar="DATA_BIN")
    parser.add_argument("--checkpoint", required=True, help="made by fairseq-train")
    parser.add_argument("--subset", default="test", help="valid, test, test1, ... (default %(default)s)")
    parser.add_argument("--out", metavar="FILE.json", help="write the result here, with all hypotheses")
    parser.add_argument("--trust-checkpoint", metavar="FILE", help="load --checkpoint even if it holds code")
    group = parser.add_argument_group("decoding")
    group.add_argument("--beam", type=int, default=defaults.beam, help="(default %(default)s)")
    group.add_argument("--lenpen", type=float, default=defaults.lenpen, help="length penalty (default %(default)s)")
    group.add_argument("--max-len-a", type=float, default=defaults.max_len_a, help="longest output is a x source + b")
    group.add_argument("--max-len-b", type=int, default=defaults.max_len_b, help="(default %(default)s)")
    group.add_argument("--max-tokens", type=int, default=defaults.max_tokens, help="a batch (default %(default)s)")
    group.add_argument("--fp16", action="store_true", help="half precision, on CUDA")
    group.add_argument("--cpu", action="store_true", help="do not use CUDA")
    group = parser.add_argument_group("for a data-bin made by fairseq-preprocess")
    group.add_argument("--reference", metavar="FILE", help="plain-text references, one sentence a line")
    group.add_argument("--post-process", choices=KINDS, help="how subwords are joined")


def run(args) -> None:
    """Evaluate and print."""
    if args.trust_checkpoint not in (None, args.checkpoint):
        raise KDError(f"--trust-checkpoint {args.trust_checkpoint} is not the --checkpoint {args.checkpoint}")
    if args.out is not None:
        ensure_writable_folder(Path(args.out).absolute().parent)  # before the work, not after it
    names = ("beam", "lenpen", "max_len_a", "max_len_b", "max_tokens", "fp16", "cpu")
    result = evaluate(
        args.data_bin,
        args.checkpoint,
        args.subset,
        TranslateOptions(**{name: getattr(args, name) for name in names}),
        reference=args.reference,
        post_process=args.post_process,
        trust=args.trust_checkpoint is not None,
    )
    for name in ("bleu", "chrf"):
        print(result[name]["verbose"])
        print(f"    {result[name]['signature']}")
    print(
        f"{result['sentences']:,} sentences in {result['seconds']:.1f} s on {result['device']}, "
        f"{result['parameters']:,} parameters, {result['updates']:,} updates"
    )
    if result["dictionary_check"] == "size":
        print(
            "note: the dictionaries of the training are no longer where the checkpoint says, so only their size was "
            "compared with those of DATA_BIN",
            file=sys.stderr,
        )
    if args.out is not None:
        write_json(args.out, result)
        print(f"wrote {args.out}")
