"""`fairseq-kd study init`: write a commented spec from answers on the command line."""

import shlex
from pathlib import Path

from fairseq_kd.artifacts.writing import create_file, ensure_writable_file, write_text
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.yaml_file import nearest

OPTIONS = ("data", "question", "teacher", "seeds", "updates", "source_lang", "target_lang", "replace")


def add_arguments(parser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("init")
    group.add_argument("--data", metavar="DATA", help="name of a corpus, a data-bin, or a folder of aligned text")
    group.add_argument("--question", metavar="Q", help="what the study asks, such as word-vs-seq or noise")
    group.add_argument("--teacher", nargs="+", metavar="FILE", help="checkpoints that exist (default: train a teacher)")
    group.add_argument("--source-lang", "-s", metavar="LANG", help="source language, for aligned text")
    group.add_argument("--target-lang", "-t", metavar="LANG", help="target language, for aligned text")
    group.add_argument("--seeds", type=int, metavar="N", help="number of seeds (default 3)")
    group.add_argument("--updates", type=int, metavar="N", help="updates of each training (default: by the recipe)")
    group.add_argument("--replace", action="store_true", help="write SPEC even if the file exists")


def given_options(args) -> list[str]:
    """The options of this action that were given."""
    return [f"--{name.replace('_', '-')}" for name in OPTIONS if getattr(args, name)]


def run(args) -> None:
    """Write the spec, and print the next command. Raises KDError when answers are missing or do not fit together."""
    from fairseq_kd.study.new_spec import Answers, write_spec
    from fairseq_kd.study.questions import QUESTIONS

    path = _new_file(args)
    for name, choices in (
        ("data", "a corpus, a data-bin, or a folder of aligned text"),
        ("question", ", ".join(QUESTIONS)),
    ):
        if not getattr(args, name):
            raise KDError(f"study init needs --{name}: give {choices}")
    if args.question not in QUESTIONS:
        raise KDError(f"--question {args.question}: unknown; the nearest valid one is "
                      f"{nearest(args.question, QUESTIONS)!r} of {', '.join(QUESTIONS)}")  # fmt: skip
    answers = Answers(
        data=args.data,
        question=args.question,
        teachers=tuple(args.teacher or ()),
        seeds=3 if args.seeds is None else args.seeds,
        updates=args.updates,
        languages=(args.source_lang, args.target_lang),
    )
    text, plan = write_spec(answers, path.stem)
    if args.replace:
        write_text(path, text)
    else:
        create_file(path, [text.encode()])
        if path.read_text(encoding="utf-8") != text:  # another process has written it meanwhile
            raise KDError(_exists(path))
    print(f"wrote {path}: {len(plan.cells)} cells, {len(plan.stages)} stages")
    print(f"next: fairseq-kd study plan {shlex.quote(str(path))} --out runs/{shlex.quote(path.stem)}")


def _new_file(args) -> Path:
    path = Path(args.spec)
    if path.suffix not in (".yaml", ".yml"):
        raise KDError(f"{path} is not the name of a spec: give a file that ends with .yaml")
    if path.exists() and not args.replace:
        raise KDError(_exists(path))
    ensure_writable_file(path)  # before the work, not after it
    return path


def _exists(path: Path) -> str:
    return f"{path} exists, and nothing is overwritten: give another name, or --replace"
