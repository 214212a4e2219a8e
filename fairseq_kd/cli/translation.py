"""Options that several commands share: how a subset is translated, and how the translations are scored."""

import sys

from fairseq_kd.corpus.subword import KINDS
from fairseq_kd.evaluation.backend import BACKENDS, FAIRSEQ, BackendOptions
from fairseq_kd.evaluation.system import TranslateOptions
from fairseq_kd.scoring.tokenizers import TOKENIZERS


def add_tokenize_argument(parser) -> None:
    """Declare --tokenize."""
    parser.add_argument(
        "--tokenize",
        choices=TOKENIZERS,
        help="sacreBLEU's tokeniser for BLEU and TER (default: by the target language: zh, ja-mecab, ko-mecab, "
        "char for Thai, Lao, Khmer, Burmese and Tibetan, else 13a)",
    )


def add_decoding_arguments(parser) -> None:
    """Declare the options of decoding and of scoring."""
    add_tokenize_argument(parser)
    add_search_arguments(parser)
    group = parser.add_argument_group("for a data-bin made by fairseq-preprocess")
    group.add_argument("--reference", metavar="FILE", help="plain-text references, one sentence per line")
    group.add_argument("--post-process", choices=KINDS, help="how subwords are joined")


def add_backend_arguments(parser) -> None:
    """Declare the options of `BackendOptions`."""
    group = parser.add_argument_group("what decodes")
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default=FAIRSEQ,
        help="ctranslate2: the same search in float32, faster on a CPU; transformers only (default %(default)s)",
    )
    group.add_argument(
        "--workers", type=int, metavar="N", help="threads of ctranslate2 on a CPU (default: as many as torch uses)"
    )


def add_search_arguments(parser) -> None:
    """Declare the options of `TranslateOptions`."""
    defaults = TranslateOptions()
    group = parser.add_argument_group("decoding")
    group.add_argument("--beam", type=int, default=defaults.beam, help="beam size (default %(default)s)")
    group.add_argument("--lenpen", type=float, default=defaults.lenpen, help="length penalty (default %(default)s)")
    group.add_argument(
        "--max-len-a",
        type=float,
        default=defaults.max_len_a,
        help="the longest output has a x source + b tokens (default %(default)s)",
    )
    group.add_argument(
        "--max-len-b", type=int, default=defaults.max_len_b, help="b of --max-len-a (default %(default)s)"
    )
    group.add_argument(
        "--max-tokens", type=int, default=defaults.max_tokens, help="tokens per batch (default %(default)s)"
    )
    group.add_argument("--fp16", action="store_true", help="half precision, on CUDA")
    group.add_argument("--cpu", action="store_true", help="do not use CUDA")


def decoding_options(args) -> TranslateOptions:
    """The given options. Raises KDError for a value out of range."""
    return TranslateOptions(**{name: getattr(args, name) for name in TranslateOptions.__dataclass_fields__})


def backend_options(args) -> BackendOptions:
    """The given options. Raises KDError for values that cannot be used together."""
    options = BackendOptions(args.backend, args.workers)
    options.check_fp16(args.fp16)
    return options


def note_dictionary_check(result: dict) -> None:
    """Say when only the size of the dictionaries could be compared."""
    if result["dictionary_check"] == "size":
        print(
            "note: the dictionaries of the training are no longer where the checkpoint says, so only their size was "
            "compared with the dictionaries of DATA_BIN",
            file=sys.stderr,
        )
