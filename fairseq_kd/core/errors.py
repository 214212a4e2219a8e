"""Errors that a user can cause: one clear message, exit status 2, no traceback.

Code raises `KDError` with a message that says what was found, why it matters and what to do. It becomes exit status 2:

- in `fairseq-kd`, by `cli.main`;
- in plugin code that stock fairseq commands call, by `exit_on_user_error`. It raises SystemExit, which fairseq and
  Hydra do not catch, so that no `crash.pt` is written for a mistyped option;
- in stock fairseq code, by `sys.excepthook`, which `training.process.install_exit_handling` extends.
"""

import contextlib
import sys

EXIT_USER_ERROR = 2


class KDError(Exception):
    """A condition that the user can fix. The message is complete: what was found, why it matters, what to do."""


def report(error: BaseException) -> None:
    """Print `error` as one line to standard error."""
    print(f"fairseq_kd: error: {error}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def exit_on_user_error():
    """Print the message of a KDError that the block raises to standard error, and exit with status 2."""
    try:
        yield
    except KDError as error:
        report(error)
        raise SystemExit(EXIT_USER_ERROR) from error


@contextlib.contextmanager
def prefixed_errors(where: str):
    """Put `where`, such as a file and its section, and a colon before the message of a KDError raised inside."""
    try:
        yield
    except KDError as error:
        raise KDError(f"{where}: {error}") from error
