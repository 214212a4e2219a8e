"""Entry point of `fairseq-kd`."""

import argparse
import contextlib
import errno
import logging
import signal
import sys
import warnings

from fairseq_kd.cli.output import lasting_output, status_after_printing
from fairseq_kd.cli.user_dir import import_user_dirs
from fairseq_kd.core.commands import COMMANDS, load_command
from fairseq_kd.core.errors import EXIT_USER_ERROR, KDError, report
from fairseq_kd.core.process import Terminated, show_fatal_signals, signals_that_end
from fairseq_kd.version import __version__

EXIT_INTERRUPTED, EXIT_TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
# errors of the system that the user can fix -> how
SYSTEM_REASONS = {errno.EACCES: "change its owner or mode", errno.EROFS: "choose a folder that can be written"}
SYSTEM_REASONS |= {errno.ENOENT: "it was removed while the command ran, or its folder was: put it back"}
SYSTEM_REASONS |= dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room on the disk")


def main(argv=None) -> int:
    """Run one sub-command; return its exit status. A KDError is printed as one line, status 2."""
    show_fatal_signals()
    with lasting_output() as output:
        try:
            with signals_that_end():
                status = _run(sys.argv[1:] if argv is None else argv)
        except SystemExit as end:  # argparse raises it after --help or a usage error
            raise SystemExit(status_after_printing(end.code, output)) from end
        return status_after_printing(status, output)


def _run(argv: list[str]) -> int:
    try:
        args = _parse(argv)
        with quiet_libraries():
            import_user_dirs(args)
            return load_command(args.command).run(args) or 0
    except KDError as error:
        report(error)
        return EXIT_USER_ERROR
    except OSError as error:
        if error.errno not in SYSTEM_REASONS:
            raise
        where = error.filename or "a file"
        report(KDError(f"{where}: {error.strerror}; {SYSTEM_REASONS[error.errno]}, then give the same command again"))
        return EXIT_USER_ERROR
    except Terminated:
        print("terminated; give the same command again", file=sys.stderr)
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        print("interrupted; give the same command again", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fairseq-kd", description="Knowledge distillation for fairseq.")
    parser.add_argument("--version", action="version", version=f"fairseq_kd {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in argv if word in COMMANDS), None)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name == chosen:  # the others are not imported
            load_command(name).add_arguments(subparser)
    args, others = parser.parse_known_args(argv)
    if hasattr(args, "passed_on"):  # set by commands that pass options on to fairseq or Snakemake
        args.passed_on = others
    elif others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    return args


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
