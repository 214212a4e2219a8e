"""`fairseq-kd export`: a student -> a folder that CTranslate2 loads, with its BLEU, size and speed."""

from fairseq_kd.cli.translation import add_decoding_arguments, decoding_options, note_dictionary_check
from fairseq_kd.cli.user_dir import add_user_dir
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.adopt_request import parse_models
from fairseq_kd.export.runtime import QUANTIZATIONS


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint of a transformer or a kd_student")
    parser.add_argument("--to", required=True, choices=("ctranslate2",), help="format of the exported model")
    parser.add_argument(
        "--quantize",
        choices=QUANTIZATIONS,
        default="none",
        help="number format of the weights on disk; none: float32 (default)",
    )
    parser.add_argument("--data", required=True, metavar="DATA_BIN", help="dictionaries, subword model and test set")
    parser.add_argument("--out", required=True, metavar="DIR", help="the exported model")
    parser.add_argument(
        "--subset", default="test", help="subset that is translated before and after the export (default %(default)s)"
    )
    parser.add_argument("--trust-checkpoint", metavar="FILE", help="load CHECKPOINT even if it holds code")
    add_decoding_arguments(parser)
    parser.add_argument(
        "--subword-model",
        nargs="+",
        metavar="FILE",
        help="for a data-bin without its own: the model for DIR, as for fairseq-kd adopt; replaces --post-process",
    )
    add_user_dir(parser)


def run(args) -> None:
    """Export, and print scores, size and speed before and after."""
    from fairseq_kd.evaluation.exported import export

    if args.trust_checkpoint not in (None, args.checkpoint):
        raise KDError(f"--trust-checkpoint {args.trust_checkpoint} is not the CHECKPOINT {args.checkpoint}")
    manifest = export(
        args.checkpoint,
        args.data,
        args.out,
        quantize=args.quantize,
        subset=args.subset,
        options=decoding_options(args),
        reference=args.reference,
        post_process=args.post_process,
        subword_model=None if args.subword_model is None else parse_models(args.subword_model),
        tokenize=args.tokenize,
        trust=args.trust_checkpoint is not None,
    )
    print_summary(args.out, manifest)
    note_dictionary_check(manifest)


def print_summary(out, manifest: dict) -> None:
    """Print the values before and after the export, and how to load the model."""
    before, after = manifest["before"], manifest["after"]
    ratio = before["seconds"] / max(after["seconds"], 0.001)
    print(f"{'':22}{'before':>14}{'after':>14}")
    print(f"{'BLEU':22}{before['bleu']['score']:14.2f}{after['bleu']['score']:14.2f}")
    print(f"{'chrF2':22}{before['chrf']['score']:14.2f}{after['chrf']['score']:14.2f}")
    weights = f"{manifest['parameters']:,} parameters, {manifest['weight_bytes']:,} bytes in float32"
    print(f"{'bytes on disk':22}{before['bytes']:14,}{after['bytes']:14,}   {weights}")
    rates = before["sentences_a_second"], after["sentences_a_second"]
    print(f"{'sentences/s':22}{rates[0]:14.1f}{rates[1]:14.1f}   {ratio:.2f} x, {manifest['threads']} threads")
    print(f"{'same translations':22}{'':14}{100 * manifest['same_translations']:12.2f} %")
    print(f"{before['bleu']['signature']}   {before['chrf']['signature']}")
    print(
        f"{out}: --quantize {manifest['quantize']}, computed in {manifest['compute_type']} on {manifest['device']}; "
        f'ctranslate2.Translator("{out}") loads it'
    )
    if manifest["subword"] is None:
        print(
            "DATA_BIN has no subword model, so the folder has none and can translate subwords only: `fairseq-kd adopt` "
            "gives one to DATA_BIN, --subword-model FILE to the folder"
        )
