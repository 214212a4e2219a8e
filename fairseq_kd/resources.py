"""Where the YAML files of configs/ are: at the top level of a clone, inside the package when it is installed."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent  # also what --user-dir takes


def config_folder() -> Path:
    """The folder configs/."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"
