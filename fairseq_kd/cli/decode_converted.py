"""The options of `fairseq-kd decode` that name the teacher: a checkpoint of fairseq, or a converted model."""

from fairseq_kd.core.errors import KDError

FOR_FOLDER = {  # option of the command line -> field of ConvertedOptions
    "teacher_tokeniser": "tokeniser",
    "family": "family",
    "teacher_source_lang": "source_lang",
    "teacher_target_lang": "target_lang",
    "source_prefix": "source_prefix",
    "source_suffix": "source_suffix",
    "target_prefix": "target_prefix",
    "max_source_tokens": "max_source_tokens",
    "max_unknown_share": "max_unknown_share",
}


def add_teacher(parser) -> None:
    """Declare --teacher and --teacher-folder."""
    parser.add_argument("--teacher", metavar="FILE[:FILE]", help="checkpoint of fairseq, or several as an ensemble")
    parser.add_argument("--teacher-folder", metavar="DIR", help="or a model of CTranslate2 with its own tokeniser")


def add_converted(group) -> None:
    """Declare the options of a converted teacher. An option that was not given is None."""
    from fairseq_kd.sequence.converted_options import FAMILIES, MAX_UNKNOWN_SHARE

    group.add_argument(
        "--teacher-tokeniser",
        metavar="KIND:FILE",
        help="sentencepiece:FILE, sentencepiece:SOURCE,TARGET, hf:tokenizer.json, or words (default: by --family)",
    )
    group.add_argument(
        "--family", choices=tuple(FAMILIES), help="fills in the tokeniser and the tokens below (default plain: none)"
    )
    group.add_argument("--teacher-source-lang", metavar="CODE", help="language of the text, in the family's codes")
    group.add_argument("--teacher-target-lang", metavar="CODE", help="language of the answers, in the family's codes")
    group.add_argument("--source-prefix", metavar="TOKENS", help="tokens before each source, '' for none")
    group.add_argument("--source-suffix", metavar="TOKENS", help="tokens after each source, '' for none")
    group.add_argument(
        "--target-prefix", metavar="TOKENS", help="tokens with which each answer begins; they are removed from it"
    )
    group.add_argument(
        "--max-source-tokens",
        type=int,
        metavar="N",
        help="a longer source has no answer, see --fallback (default: the positions of the model)",
    )
    group.add_argument(
        "--max-unknown-share",
        type=float,
        metavar="P",
        help=f"stop if more of the pieces are unknown to the model (default {MAX_UNKNOWN_SHARE:g})",
    )


def teacher_of(args):
    """What `decode` takes as the teacher: paths of checkpoints, or ConvertedOptions.

    Raises KDError unless the teacher is given once, and for options without an effect on it.
    """
    if (args.teacher is None) == (args.teacher_folder is None):
        found = "neither is" if args.teacher is None else "both are"
        raise KDError(f"give either --teacher FILE or --teacher-folder DIR as the teacher: {found} given")
    given = {field: getattr(args, name) for name, field in FOR_FOLDER.items() if getattr(args, name) is not None}
    if args.teacher is None:
        from fairseq_kd.sequence.converted_options import ConvertedOptions

        return ConvertedOptions(args.teacher_folder, **given)
    for name in FOR_FOLDER:
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise KDError(f"{option} has no effect with --teacher: it is for --teacher-folder; leave it out")
    return args.teacher
