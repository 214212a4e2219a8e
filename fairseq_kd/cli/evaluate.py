"""`fairseq-kd evaluate`: checkpoint -> translations -> BLEU and chrF with signatures."""

from pathlib import Path

from fairseq_kd.cli.decoding import add_decoding_arguments, decoding_options, note_dictionary_check
from fairseq_kd.corpus.manifest import ensure_writable_folder, write_json
from fairseq_kd.errors import KDError
from fairseq_kd.evaluation.evaluate import evaluate


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument("data_bin", metavar="DATA_BIN")
    parser.add_argument("--checkpoint", required=True, help="made by fairseq-train")
    parser.add_argument("--subset", default="test", help="valid, test, test1, ... (default %(default)s)")
    parser.add_argument("--out", metavar="FILE.json", help="write the result here, with all hypotheses")
    parser.add_argument("--trust-checkpoint", metavar="FILE", help="load --checkpoint even if it holds code")
    add_decoding_arguments(parser)


def run(args) -> None:
    """Evaluate and print."""
    if args.trust_checkpoint not in (None, args.checkpoint):
        raise KDError(f"--trust-checkpoint {args.trust_checkpoint} is not the --checkpoint {args.checkpoint}")
    if args.out is not None:
        ensure_writable_folder(Path(args.out).absolute().parent)  # before the work, not after it
    result = evaluate(
        args.data_bin,
        args.checkpoint,
        args.subset,
        decoding_options(args),
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
    note_dictionary_check(result)
    if args.out is not None:
        write_json(args.out, result)
        print(f"wrote {args.out}")
