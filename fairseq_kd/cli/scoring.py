"""The option that says how text is scored, which several commands share."""

from fairseq_kd.evaluation.tokenizers import TOKENIZERS


def add_tokenize_argument(parser) -> None:
    """Declare --tokenize."""
    parser.add_argument(
        "--tokenize",
        choices=TOKENIZERS,
        help="sacreBLEU's tokeniser, for BLEU and TER (default: that of the target language, zh, ja-mecab, ko-mecab, "
        "char for Thai, Lao, Khmer, Burmese and Tibetan, else 13a)",
    )
