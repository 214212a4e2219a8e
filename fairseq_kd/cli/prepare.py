"""`fairseq-kd prepare`: raw text -> data-bin."""

import sys

from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus import synthetic
from fairseq_kd.corpus.corpora import CORPORA, prepare_by_name, usual_options
from fairseq_kd.corpus.prepare_options import DEFAULT_SAMPLE, DEFAULT_VOCAB_SIZE, FORMS
from fairseq_kd.corpus.sentencepiece_model import DEFAULT_NORMALISATION, NORMALISATIONS
from fairseq_kd.corpus.text import CleaningRules


def add_arguments(parser) -> None:
    """Declare the options. An option for which a corpus can have its own default is None if it is not given."""
    parser.add_argument("name", choices=tuple(CORPORA), help="name of a corpus; text for your own files")
    parser.add_argument("--out", required=True, help="data-bin to make, for example data-bin/multi30k.de-en")
    parser.add_argument("--source-lang", "-s", help="source language; file names end with it (train.de)")
    parser.add_argument("--target-lang", "-t", help="target language")
    parser.add_argument("--raw", help="folder of the raw files or archives; named corpora are downloaded without it")
    text = parser.add_argument_group("text")
    text.add_argument("--train", metavar="STEM", help="stem of the training files in --raw (default: train)")
    text.add_argument("--valid", metavar="STEM", help="stem of the validation files (default: valid, val or dev)")
    text.add_argument("--test", metavar="STEM", nargs="+", help="stems of the test files (default: test*)")
    made = parser.add_argument_group("synthetic")
    made.add_argument("--pairs", type=int, help=f"training pairs to make (default {synthetic.DEFAULT_PAIRS})")
    made.add_argument("--seed", type=int, help="seed of the corpus (default 1)")
    cleaning, of_corpus = CleaningRules(), "unless the corpus has its own"
    clean = parser.add_argument_group(f"text and cleaning of the training set (defaults {of_corpus})")
    clean.add_argument(
        "--form", choices=FORMS, help="cased (default): unchanged; tokenised, lower-cased: by the rules of Moses"
    )
    clean.add_argument("--max-words", type=int, help=f"words of the longest side (default {cleaning.max_words})")
    clean.add_argument("--max-ratio", type=float, help=f"longer side / shorter side (default {cleaning.max_ratio})")
    group = parser.add_argument_group(f"subwords and dictionary (defaults {of_corpus})")
    group.add_argument("--subword", help="sentencepiece (default), subword-nmt or none")
    group.add_argument("--vocab-size", type=int, help=f"number of subwords (default {DEFAULT_VOCAB_SIZE})")
    group.add_argument("--separate", action="store_true", help="one subword model and dictionary per language")
    group.add_argument("--subword-model", metavar="FILE", help="reuse this model instead of training one")
    group.add_argument(
        "--normalisation",
        choices=NORMALISATIONS,
        help=f"normalisation of the text by SentencePiece (default {DEFAULT_NORMALISATION})",
    )
    group.add_argument(
        "--subword-sample", type=int, metavar="PAIRS", help=f"pairs to learn subwords from (default {DEFAULT_SAMPLE:,})"
    )
    group.add_argument(
        "--reserve",
        type=int,
        metavar="N",
        help="tokens <BT> <FT> <R3> ... that no text becomes (default 0)",
    )
    group.add_argument("--like", metavar="DATA_BIN", help="reuse subword model and dictionaries of a data-bin")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that tokenise and binarise (default %(default)s)"
    )


def run(args) -> None:
    """Make the data-bin."""
    given = {
        name: getattr(args, name)
        for name in ("form", "subword", "vocab_size", "normalisation", "subword_model", "like", "workers", "reserve")
    }
    given |= {"sample": args.subword_sample, "max_words": args.max_words, "max_ratio": args.max_ratio}
    given["joint"] = False if args.separate else None
    options = usual_options(args.name, {name: value for name, value in given.items() if value is not None})
    _refuse_options_of_other_corpora(args)
    spec = {name: getattr(args, name) for name in ("pairs", "seed") if getattr(args, name) is not None}
    languages = args.source_lang, args.target_lang
    prepare_by_name(args.name, *languages, args.out, options, args.raw, say, stems=_stems(args), spec=spec)


def say(line: str) -> None:
    """Print progress to standard error."""
    print(line, file=sys.stderr, flush=True)


def _stems(args) -> dict | None:
    if not (args.train or args.valid or args.test):
        return None
    if not (args.train and args.valid and args.test):
        raise KDError("give all of --train, --valid and --test, or none of them")
    return {"train": args.train, "valid": args.valid} | {f"test{i or ''}": s for i, s in enumerate(args.test)}


def _refuse_options_of_other_corpora(args) -> None:
    for option in ("raw", "train", "valid", "test", "pairs", "seed"):
        if getattr(args, option) is not None and option not in CORPORA[args.name].takes:
            names = [corpus.name for corpus in CORPORA.values() if option in corpus.takes]
            raise KDError(f"--{option} has no effect with {args.name}; it is for {' and '.join(names)}")
