"""Paths: the files of configs/, the user's cache folder, and checks of the paths that a user gives.

fairseq and this package read ":" in a path as a separator of several paths. Between folders of data it means sharded
data; fairseq-train reads one of the folders per epoch. Between checkpoints it means several teachers. Where a command
takes one path, several are refused.
"""

import os
from pathlib import Path

from fairseq_kd.core.errors import KDError

PACKAGE = Path(__file__).resolve().parents[1]  # also the value for --user-dir
USER_DIR = '--user-dir "$(fairseq-kd user-dir)"'  # in commands that are printed: works from any folder


def config_folder() -> Path:
    """The folder configs/: at the top level of a clone, inside the package when it is installed."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def cache_folder() -> Path:
    """The folder for downloads and converted models.

    $FAIRSEQ_KD_CACHE, else $XDG_CACHE_HOME/fairseq_kd, else ~/.cache/fairseq_kd.
    """
    own = os.environ.get("FAIRSEQ_KD_CACHE")
    return Path(own) if own else xdg_cache_home() / "fairseq_kd"


def xdg_cache_home() -> Path:
    """$XDG_CACHE_HOME, else ~/.cache. A relative path is ignored: XDG Base Directory Specification 0.8."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return given if given.is_absolute() else Path.home() / ".cache"


def cached(name: str, former: Path) -> Path:
    """The folder `name` of the cache. Version 0.1.0 kept it in `former`: that one if only it exists."""
    folder = cache_folder() / name
    return former / name if not folder.exists() and (former / name).exists() else folder


def check_one_folder(path, what: str = "") -> None:
    """Raises KDError when `path`, the folder of a data-bin, contains ":".

    what: the option with this value, for the message.
    """
    parts = str(path).split(os.pathsep)
    if len(parts) == 1:
        return
    if Path(path).is_dir():
        raise KDError(
            f"{_named(what, path)}: fairseq reads {os.pathsep!r} in a path as a separator of two folders, so it "
            "cannot use a data-bin in this folder. Rename the folder"
        )
    raise KDError(
        f"{_named(what, path)} names {len(parts)} data-bins (sharded data: fairseq-train reads one of them per epoch, "
        f"and each numbers its sentences from 0), but this command needs one: combine them with fairseq-kd mix "
        f"{' '.join(parts)} --out DATA_BIN"
    )


def check_data_bin(path, what: str = "") -> None:
    """Raises KDError unless `path` is one existing folder; see `check_one_folder`."""
    check_one_folder(path, what)
    if not Path(path).is_dir():
        raise KDError(
            f"{_named(what, path)} is not a folder: give a data-bin made by fairseq-kd prepare or fairseq-preprocess"
        )


def check_one(path, what: str, kind: str = "checkpoint") -> None:
    """Raises KDError when `path` does not exist and lists several paths. kind: what it should name, for the message."""
    parts = str(path).split(os.pathsep)
    if len(parts) > 1 and not Path(path).exists():
        raise KDError(
            f"{_named(what, path)} names {len(parts)} {kind}s joined by {os.pathsep!r}, but one is needed here; "
            "--teacher of fairseq-kd decode, of fairseq-kd evaluate, and of kd_word and kd_hybrid, and --checkpoint of "
            "fairseq-kd evaluate accept several"
        )


def listed(paths) -> list[str]:
    """The paths in a text that joins them by ":". A text that is itself the name of a file or folder is one path."""
    text = str(paths)
    return [text] if Path(text).exists() else [path for path in text.split(os.pathsep) if path]


def checkpoints_of(paths: str, what: str) -> list[Path]:
    """The files in a text that joins them by ":". what: the option with this value, for the message.

    Raises KDError for a name that is no file.
    """
    names = paths.split(os.pathsep)
    if missing := [name for name in names if not Path(name).is_file()]:
        raise KDError(f"{what} {paths}: {missing[0] or 'an empty name'} is not a file: give checkpoints that exist, "
                      f"joined by {os.pathsep}")  # fmt: skip
    return [Path(name) for name in names]


def check_new_data_bin(path, what: str = "--out") -> None:
    """Raises KDError when fairseq could not read a data-bin written to `path`."""
    if os.pathsep in str(path):
        raise KDError(
            f"{_named(what, path)}: fairseq reads {os.pathsep!r} in a path as a separator of two folders, so it "
            "could not use a data-bin written there. Give a path without it"
        )


def _named(what: str, path) -> str:
    return f"{what} {path}".strip()
