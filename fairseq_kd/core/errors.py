"""What a user can cause: one clear error, exit status 2, no traceback.

Code raises `KDError` with a message that says what was found, why it matters and what to do.
The boundaries turn it into exit status 2:

- `fairseq-kd` catches it in `cli.main`;
- stock fairseq commands call into the plugin through `exit_on_user_error`. It raises SystemExit, which fairseq
  and Hydra let through, so that no `crash.pt` is written for a mistyped option;
- what stock fairseq code itself raises reaches `sys.excepthook`, which `process.install_exit_handling` extends.
"""

import contextlib
import sys

EXIT_USER_ERROR = 2


class KDError(Exception):
    """A condition that the user can mend. The message is complete: found, why, what to do."""


def report(error: BaseException) -> None:
    """Print `error` as one line to standard error."""
    print(f"fairseq_kd: error: {error}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def exit_on_user_error():
    """Turn a KDError raised inside into its message on standard error and exit status 2."""
    try:
        yield
    except KDError as error:
        report(error)
        raise SystemExit(EXIT_USER_ERROR) from error


@contextlib.contextmanager
def prefixed_errors(where: str):
    """Put `where: `, such as a file and a section of it, in front of the message of a KDError raised inside."""
    try:
        yield
    except KDError as error:
        raise KDError(f"{where}: {error}") from error
