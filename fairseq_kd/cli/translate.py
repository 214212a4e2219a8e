"""`fairseq-kd translate`: plain text in, plain text out, by a checkpoint or an exported student."""

import os
import stat
import sys
from pathlib import Path

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import MANIFEST_NAME
from fairseq_kd.artifacts.writing import ensure_writable_file, file_in_progress
from fairseq_kd.cli.translation import add_search_arguments, decoding_options, note_dictionary_check
from fairseq_kd.cli.user_dir import add_user_dir
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.subword import NO_SUBWORDS
from fairseq_kd.corpus.text import count_lines, read_raw_lines
from fairseq_kd.evaluation.translate import BUFFER, FORMATS, Notices, check_output, translate_stream
from fairseq_kd.evaluation.translator import LONG_LINES, open_translator

STDIN = "-"


def add_arguments(parser) -> None:
    """Declare the options."""
    _let_file_follow_options(parser)
    parser.add_argument("model", metavar="MODEL", help="checkpoint, or a folder that `fairseq-kd export` wrote")
    parser.add_argument("file", metavar="FILE", nargs="?", default=STDIN, help="text; - or nothing: standard input")
    parser.add_argument("--data", metavar="DATA_BIN", help="dictionaries and subword model of a checkpoint")
    parser.add_argument("--out", metavar="FILE", help="write here, whole or not at all (default: standard output)")
    parser.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0], help="form of the output (default %(default)s)"
    )
    parser.add_argument("--nbest", type=int, default=1, metavar="N", help="hypotheses per line, for tsv and jsonl")
    parser.add_argument(
        "--buffer",
        type=int,
        metavar="N",
        help=f"lines that are read before they are translated together (default {BUFFER:,}; for a pipe or terminal 1)",
    )
    parser.add_argument(
        "--long-lines",
        choices=LONG_LINES,
        default=LONG_LINES[0],
        help="what happens to a line that is too long for the model; split: it is translated in parts "
        "(default %(default)s)",
    )
    parser.add_argument("--subword-model", metavar="FILE|none", help="for data without a subword model")
    parser.add_argument(
        "--in-form", action="store_true", help="the text is tokenised as the data are, and the output stays so"
    )
    parser.add_argument("--trust-checkpoint", metavar="FILE", help="load MODEL even if it holds code")
    add_search_arguments(parser)
    parser.add_argument("--bf16", action="store_true", help="bfloat16, on CUDA")
    add_user_dir(parser)


def _let_file_follow_options(parser) -> None:
    """Let FILE be given after options too. argparse decides about an optional argument as soon as it has MODEL."""
    plain = parser.parse_known_args

    def parse(words=None, namespace=None):
        parser.parse_known_args = plain  # which the next line calls
        try:
            return parser.parse_known_intermixed_args(words, namespace)
        finally:
            parser.parse_known_args = parse

    parser.parse_known_args = parse


def run(args) -> None:
    """Translate, to standard output or to a file."""
    options = decoding_options(args)
    dtype = _check(args, options)
    with Inputs() as inputs:
        _watch(args, inputs)
        opening = {"subword_model": args.subword_model, "in_form": args.in_form, "dtype": dtype}
        trust = args.trust_checkpoint is not None
        translator = open_translator(args.model, args.data, options, **opening, trust=trust)
        if translator.model.dictionary_check is not None:
            note_dictionary_check({"dictionary_check": translator.model.dictionary_check})
        if args.file != STDIN and args.out is not None:
            _to_file(args, translator, opening, inputs)
        elif args.out is not None:
            with file_in_progress(args.out) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
                _stream(args, translator, file.write, lambda: False)
        else:
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
            _stream(args, translator, _print, lambda: getattr(sys.stdout, "error", None) is not None)
    if args.out is not None:
        print(f"wrote {args.out}")


def _check(args, options) -> str | None:
    """The dtype of --fp16 and --bf16. Raises KDError for what does not fit together, before anything is opened."""
    check_output(args.format, args.nbest, options.beam)
    if args.buffer is not None and args.buffer < 1:
        raise KDError(f"--buffer {args.buffer}: must be at least 1")
    if args.bf16 and args.fp16:
        raise KDError("--fp16 and --bf16 exclude each other: give one of them")
    if args.bf16 and options.device().type == "cpu":
        raise KDError("--bf16 is for CUDA; on the CPU it would only be slower")
    if args.trust_checkpoint not in (None, args.model):
        raise KDError(f"--trust-checkpoint {args.trust_checkpoint} is not the MODEL {args.model}")
    if args.file != STDIN and not Path(args.file).is_file():
        raise KDError(f"{args.file} is not there or is not a file: give the text to translate, or - for standard input")
    if args.file == STDIN and sys.stdin is None:
        raise KDError("standard input is closed, so there is nothing to translate: give FILE")
    if args.out is not None:
        ensure_writable_file(args.out)
        if args.file != STDIN and Path(args.out).resolve() == Path(args.file).resolve():
            raise KDError(f"--out {args.out} is the text itself, which would be lost: give another name")
    return "bfloat16" if args.bf16 else "float16" if args.fp16 else None


def _watch(args, inputs: Inputs) -> None:
    """Look at the inputs before they are opened."""
    inputs.watch(*(path for path in (_model_file(args), args.subword_model, args.file) if path is not None))
    if args.data is not None and Path(args.data).is_dir():
        inputs.watch_data_bin(args.data)


def _model_file(args) -> Path:
    """The checkpoint; of an exported folder the manifest, which holds the hashes of the other files."""
    model = Path(args.model)
    return model / MANIFEST_NAME if model.is_dir() else model


def _to_file(args, translator, opening: dict, inputs: Inputs) -> None:
    from fairseq_kd.evaluation.translate_file import FileWork, translate_file

    model = args.subword_model
    made_from = {
        "model": inputs.loaded(_model_file(args)),  # a training may replace it now
        "opening": opening | {"subword_model": model if model in (None, NO_SUBWORDS) else inputs.sha256(model)},
    }
    how = {"nbest": args.nbest, "long_lines": args.long_lines}
    notices = Notices(_say, translator.options)
    work = FileWork(translator, Path(args.file), Path(args.out), args.format, how, notices, args.buffer or BUFFER)
    translate_file(work, made_from, inputs)


def _stream(args, translator, write, ended) -> None:
    """Translate standard input, or a file to standard output."""
    name, lines, total = args.file, None, None
    if name != STDIN:
        lines, total = read_raw_lines(name), count_lines(name)
    else:
        name, lines = "standard input", (line.removesuffix(b"\n") for line in sys.stdin.buffer)
        total = _lines_left(sys.stdin.buffer)
    if name == "standard input" and sys.stdin.isatty():
        _say("type a line to translate it; Ctrl-D ends")
    translate_stream(
        translator,
        lines,
        write,
        ended,
        name=name,
        format=args.format,
        notices=Notices(_say, translator.options),
        progress=None if total is None else Progress("translating", total, "lines"),
        buffer=args.buffer or (1 if total is None else BUFFER),
        nbest=args.nbest,
        long_lines=args.long_lines,
    )


def _lines_left(file) -> int | None:
    """The number of lines from the current position of a regular file; None for a pipe or a terminal."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return None
    start = file.tell()
    count = sum(1 for _ in file)
    file.seek(start)
    return count


def _print(text: str) -> None:
    """Write to standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
