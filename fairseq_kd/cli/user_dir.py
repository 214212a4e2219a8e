"""`fairseq-kd user-dir`, and `--user-dir`: the user's architectures and tasks, for commands that open a checkpoint."""

import os
from argparse import Namespace

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import PACKAGE, config_folder


def add_arguments(parser) -> None:
    """Declare the options of `fairseq-kd user-dir`."""
    parser.add_argument("--configs", action="store_true", help="print the folder of the configurations instead")


def run(args) -> None:
    """Print the path and nothing else, for `--user-dir "$(fairseq-kd user-dir)"`."""
    print(config_folder() if args.configs else PACKAGE)


def add_user_dir(parser) -> None:
    """Declare the option. `cli.main` imports the folders before the command runs."""
    parser.add_argument(
        "--user-dir",
        nargs="+",
        action="extend",
        metavar="DIR",
        help="one or more folders with your own architectures or tasks, as for fairseq-train; their code is run. "
        "Give this option after the arguments without a name, such as DATA_BIN",
    )


def import_user_dirs(args) -> None:
    """Register this package with fairseq, then import the given folders by fairseq's own rules.

    Does nothing for a command without the option. Raises KDError for a folder that is missing or cannot be imported.
    """
    if not hasattr(args, "user_dir"):
        return
    from fairseq.utils import import_user_module

    from fairseq_kd import register

    register()
    for folder in args.user_dir or []:
        if os.path.realpath(folder) == str(PACKAGE):  # registered already
            continue
        try:
            import_user_module(Namespace(user_dir=folder))
        except Exception as error:  # the code of the folder can raise anything
            raise KDError(_reason(folder, error)) from error


def _reason(folder: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is None:  # how fairseq says so
        return f"--user-dir {folder} is not there: give the folder that fairseq-train was given"
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"--user-dir {folder} cannot be imported ({reason}): put its code right, or leave the folder out"


def add_lang_pair(parser) -> None:
    """Declare --lang-pair, for the commands that open one language pair of a multilingual checkpoint."""
    parser.add_argument(
        "--lang-pair",
        metavar="SOURCE-TARGET",
        help="language pair, for a multilingual checkpoint with a data-bin of several (default: that of the data-bin)",
    )
