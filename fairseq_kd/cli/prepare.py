"""`fairseq-kd prepare`: raw text -> data-bin."""

import sys
import tempfile

from fairseq_kd.corpus import datasets, synthetic
from fairseq_kd.corpus.options import DEFAULT_VOCAB_SIZE, PrepareOptions
from fairseq_kd.corpus.prepare import prepare
from fairseq_kd.corpus.text import CleaningRules
from fairseq_kd.errors import KDError


def add_arguments(parser) -> None:
    """Declare the options."""
    parser.add_argument("name", choices=datasets.NAMES, help="multi30k, synthetic, or text for your own files")
    parser.add_argument("--out", required=True, help="folder to make, e.g. data-bin/multi30k.de-en")
    parser.add_argument("--source-lang", "-s", help="language of the source; files end in it (train.de)")
    parser.add_argument("--target-lang", "-t", help="language of the target")
    parser.add_argument("--raw", help="folder of the raw files, plain or .gz; multi30k is downloaded without it")
    text = parser.add_argument_group("text")
    text.add_argument("--train", metavar="STEM", help="stem of the training files in --raw (default: train)")
    text.add_argument("--valid", metavar="STEM", help="stem of the validation files (default: valid, val or dev)")
    text.add_argument("--test", metavar="STEM", nargs="+", help="stems of the test files (default: test*)")
    made = parser.add_argument_group("synthetic")
    made.add_argument("--pairs", type=int, help=f"training pairs to make (default {synthetic.DEFAULT_PAIRS})")
    made.add_argument("--seed", type=int, help="seed of the corpus (default 1)")
    cleaning = CleaningRules()
    clean = parser.add_argument_group("cleaning of the training set")
    clean.add_argument("--max-words", type=int, default=cleaning.max_words, help="longest side (%(default)s)")
    clean.add_argument(
        "--max-ratio", type=float, default=cleaning.max_ratio, help="longer side / shorter side (%(default)s)"
    )
    group = parser.add_argument_group("subwords and dictionary")
    group.add_argument("--subword", default="sentencepiece", help="sentencepiece (default), subword-nmt or none")
    group.add_argument("--vocab-size", type=int, default=DEFAULT_VOCAB_SIZE, help="subwords (default %(default)s)")
    group.add_argument("--separate", action="store_true", help="a subword model and dictionary a language")
    group.add_argument("--subword-model", metavar="FILE", help="reuse this model instead of training one")
    group.add_argument("--like", metavar="DATA_BIN", help="reuse subword model and dictionaries of a data-bin")
    parser.add_argument("--workers", type=int, default=1, help="processes that binarise (default %(default)s)")


def run(args) -> None:
    """Make the data-bin."""
    options = PrepareOptions(
        subword=args.subword,
        vocab_size=args.vocab_size,
        joint=not args.separate,
        subword_model=args.subword_model,
        like=args.like,
        rules=CleaningRules(max_words=args.max_words, max_ratio=args.max_ratio),
        workers=args.workers,
    )
    _refuse_options_of_other_corpora(args)
    if args.name == "synthetic":
        source_lang, target_lang = args.source_lang or synthetic.SOURCE, args.target_lang or synthetic.TARGET
        given = {name: getattr(args, name) for name in ("pairs", "seed") if getattr(args, name) is not None}
        spec = synthetic.CorpusSpec(**given)
        with tempfile.TemporaryDirectory(prefix="fairseq_kd-") as raw:
            files = synthetic.write_corpus(spec, raw, source_lang, target_lang)
            prepare("synthetic", files, source_lang, target_lang, args.out, options, say, origin=spec.as_dict())
        return
    if not args.source_lang or not args.target_lang:
        raise KDError(f"prepare {args.name} needs --source-lang and --target-lang")
    if args.name == "multi30k":
        files = datasets.multi30k_files(args.source_lang, args.target_lang, args.raw)
    else:
        if args.raw is None:
            raise KDError("prepare text needs --raw FOLDER, the folder with your files")
        stems = _stems(args)
        files = datasets.text_files(args.raw, args.source_lang, args.target_lang, stems)
    prepare(args.name, files, args.source_lang, args.target_lang, args.out, options, say)


def say(line: str) -> None:
    """Progress goes to standard error."""
    print(line, file=sys.stderr, flush=True)


def _stems(args) -> dict | None:
    if not (args.train or args.valid or args.test):
        return None
    if not (args.train and args.valid and args.test):
        raise KDError("give all of --train, --valid and --test, or none of them")
    return {"train": args.train, "valid": args.valid} | {f"test{i or ''}": s for i, s in enumerate(args.test)}


def _refuse_options_of_other_corpora(args) -> None:
    owners = {
        "raw": ("multi30k", "text"),
        "train": ("text",),
        "valid": ("text",),
        "test": ("text",),
        "pairs": ("synthetic",),
        "seed": ("synthetic",),
    }
    for option, names in owners.items():
        if getattr(args, option) is not None and args.name not in names:
            raise KDError(f"--{option} has no effect with {args.name}; it is for {' and '.join(names)}")
