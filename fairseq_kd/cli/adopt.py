"""`fairseq-kd adopt`: keep what `prepare` keeps beside a data-bin that stock fairseq-preprocess has made."""

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.adopt_request import Adoption, parse_files, parse_models
from fairseq_kd.corpus.prepare_options import FORMS


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument("data_bin", metavar="DATA_BIN", help="its binary files stay as they are")
    parser.add_argument(
        "--subword-model",
        required=True,
        nargs="+",
        metavar="FILE",
        help="the model with which the text was segmented: a SentencePiece model, or codes of subword-nmt or fastBPE; "
        "LANG=FILE LANG=FILE for one model per language; none if the tokens are words",
    )
    for option, lang, more in (
        ("--reference", "target", "scores need it"),
        ("--source", "source", "--noise-levels of evaluate needs it; else the source is decoded from the binary data"),
    ):
        parser.add_argument(
            option,
            nargs="+",
            action="extend",
            default=[],
            metavar="SUBSET=FILE",
            help=f"the text of a subset in the {lang} language before segmentation, one sentence per line, plain or "
            f"compressed; {more}",
        )
    parser.add_argument(
        "--form", choices=FORMS, default="cased", help="cased: unchanged text; tokenised, lower-cased (default cased)"
    )
    parser.add_argument("--source-lang", "-s", metavar="LANG", help="source language (default: as the files are named)")
    parser.add_argument("--target-lang", "-t", metavar="LANG", help="target language, with --source-lang")
    parser.add_argument("--replace", action="store_true", help="replace what an earlier adopt has kept")


def run(args) -> None:
    """Check and write, and name the next command."""
    from fairseq_kd.corpus.adopt import adopt

    if (args.source_lang is None) != (args.target_lang is None):
        raise KDError("give --source-lang and --target-lang, or neither")
    adoption = Adoption(
        parse_models(args.subword_model),
        parse_files("--reference", args.reference, "SUBSET"),
        parse_files("--source", args.source, "SUBSET"),
        args.form,
        None if args.source_lang is None else (args.source_lang, args.target_lang),
    )
    manifest = adopt(args.data_bin, adoption, replace=args.replace)
    if "valid" in manifest["subsets"] and "valid" not in adoption.references:
        print("no references of valid: select-teacher needs them, or another --subset")
    print(f"next: fairseq-kd select-teacher {args.data_bin} --checkpoints DIR --by low-loss")
