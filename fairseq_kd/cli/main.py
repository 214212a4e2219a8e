"""Entry point of `fairseq-kd`."""

import argparse
import contextlib
import errno
import importlib
import logging
import sys
import warnings

from fairseq_kd.cli.user_dir import import_user_dirs
from fairseq_kd.errors import EXIT_USER_ERROR, KDError, report
from fairseq_kd.version import __version__

COMMANDS = {
    "quickstart": "train a teacher, a plain student and a distilled student, and print their BLEU",
    "prepare": "make a data-bin from raw text",
    "cache": "store what a teacher says about every target token, for training without the teacher",
    "decode": "make training data from the teacher: beam, greedy, teacher forcing or sampling",
    "mix": "make one data-bin of several, such as original and distilled training data",
    "noise": "noise of known rates in text or in a data-bin: delete, substitute, swap",
    "verify-cache": "verify a teacher cache: its files, and a sample of it against the teacher",
    "count": "print the parameters of an architecture by part, and its operations a target token",
    "init-student": "begin a student with layers, embeddings and channels of its teacher",
    "compact": "cut the closed gates out of an adaptive student",
    "export": "write a student as a CTranslate2 model, and compare its BLEU, size and speed",
    "select-teacher": "measure loss and BLEU of the checkpoints of a training, and choose the teacher among them",
    "evaluate": "translate a subset and score it: BLEU, chrF, TER with intervals, calibration, agreement, cost",
    "compare": "compare results of evaluate: paired tests over segments and over seeds",
    "study": "run a whole experiment from one YAML file, or continue it",
    "search": "search for the best options of word-level distillation",
    "doctor": "print versions, devices and optional parts, and what to do about what is missing",
}

# what the system refuses and the user can mend -> how
SYSTEM_REASONS = {errno.EACCES: "change its owner or mode", errno.EROFS: "choose a folder that can be written"}
SYSTEM_REASONS |= dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on the disk")


def main(argv=None) -> int:
    """Run one sub-command; return its exit status. A KDError is printed as one line, status 2."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="fairseq-kd", description="Knowledge distillation for fairseq.")
    parser.add_argument("--version", action="version", version=f"fairseq_kd {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in argv if word in COMMANDS), None)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name == chosen:  # the others are not imported
            command = importlib.import_module(f"fairseq_kd.cli.{name.replace('-', '_')}")
            command.add_arguments(subparser)
    args, others = parser.parse_known_args(argv)
    if hasattr(args, "passed_on"):  # set by commands that pass options on to fairseq or Snakemake
        args.passed_on = others
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    try:
        with quiet_libraries():
            import_user_dirs(args)
            return command.run(args) or 0
    except KDError as error:
        report(error)
        return EXIT_USER_ERROR
    except OSError as error:
        if error.errno not in SYSTEM_REASONS:
            raise
        where = error.filename or "a file"
        report(KDError(f"{where}: {error.strerror}; {SYSTEM_REASONS[error.errno]}, then give the same command again"))
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; give the same command again", file=sys.stderr)
        return 130


@contextlib.contextmanager
def quiet_libraries():
    """Keep fairseq's INFO lines and the libraries' deprecation notices out of the output; errors still pass.

    The levels, handlers and filters of the process are put back: `main` can be called from other code.
    """
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, ("fairseq", "fairseq_cli", "hydra"))]
    levels, handlers = [logger.level for logger in loggers], root.handlers[:]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(fairseq|fairseq_cli|hydra|torch)(\.|$)")
            logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
            for logger in loggers:  # the root's is DEBUG since fairseq's speech models were imported
                logger.setLevel(logging.WARNING)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        root.handlers[:] = handlers


if __name__ == "__main__":
    sys.exit(main())
