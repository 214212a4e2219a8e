"""Where things are outside of the code: the YAML files of configs/, and the user's cache."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent  # also what --user-dir takes


def config_folder() -> Path:
    """The folder configs/: at the top level of a clone, inside the package when it is installed."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def cache_folder() -> Path:
    """Where downloads and converted models are kept.

    $FAIRSEQ_KD_CACHE, else $XDG_CACHE_HOME/fairseq_kd, else ~/.cache/fairseq_kd.
    """
    own = os.environ.get("FAIRSEQ_KD_CACHE")
    return Path(own) if own else xdg_cache_home() / "fairseq_kd"


def xdg_cache_home() -> Path:
    """$XDG_CACHE_HOME, else ~/.cache. One that is not absolute is ignored: XDG Base Directory Specification 0.8."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return given if given.is_absolute() else Path.home() / ".cache"


def cached(name: str, former: Path) -> Path:
    """The folder `name` of the cache; that in `former`, where version 0.1.0 kept it, while it is only there."""
    folder = cache_folder() / name
    return former / name if not folder.exists() and (former / name).exists() else folder
