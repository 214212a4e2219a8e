"""What a user can cause: one clear error, exit status 2, no traceback.

Code raises `KDError` with a message that says what was found, why it matters and what to do.
The boundaries turn it into exit status 2:

- `fairseq-kd` catches it in `cli.main`;
- stock fairseq commands call into the plugin through `exit_on_user_error`. It raises SystemExit, which fairseq
  and Hydra let through, so that no `crash.pt` is written for a mistyped option;
- what stock fairseq code itself raises (a refused checkpoint given to --path, a worker that ended with status 2)
  reaches `sys.excepthook`, which `install_excepthook` extends. Any other exception keeps its traceback.
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


def install_excepthook() -> None:
    """Extend `sys.excepthook`: user errors that reach it are one line and exit status 2. Can be called again."""
    previous = sys.excepthook
    if getattr(previous, "of_fairseq_kd", False):
        return

    def hook(kind, error, traceback):
        message = _message_of_user_error(error)
        if message is None:
            previous(kind, error, traceback)
            return
        if message:
            report(KDError(message))
        raise SystemExit(EXIT_USER_ERROR)

    hook.of_fairseq_kd = True
    sys.excepthook = hook


def _message_of_user_error(error: BaseException) -> str | None:
    """The line to print, empty when a worker has printed it, None when this is not a user error."""
    from torch.multiprocessing import ProcessExitedException

    from fairseq_kd.checkpoint import refusal, refused_type

    if isinstance(error, KDError):
        return str(error)
    if isinstance(error, ProcessExitedException) and error.exit_code == EXIT_USER_ERROR:
        return ""
    type_name = refused_type(error)
    return None if type_name is None else refusal("the checkpoint", type_name)
