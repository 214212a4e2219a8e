"""Paths in `fairseq-hydra-train`, whose working directory Hydra changes before fairseq loads the plugin.

A relative path of an option of this package means the folder in which the command was started, as for fairseq-train.
"""

import os
import re
import sys
from multiprocessing import parent_process
from pathlib import Path

from fairseq_kd.core.yaml_file import read_yaml

RECORD = Path(".hydra", "hydra.yaml")  # Hydra writes it into the new working directory
PROGRAMS = ("fairseq-hydra-train", "hydra_train.py")


def starting_folder() -> Path | None:
    """The folder in which `fairseq-hydra-train` was started; None in other programs."""
    if "hydra" not in sys.modules:
        return None
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized():
        return Path(HydraConfig.get().runtime.cwd)
    # fairseq starts one process per GPU; these have the arguments of their parent, and not Hydra's state
    if parent_process() is None or Path(sys.argv[0]).name not in PROGRAMS or not RECORD.is_file():
        return None
    return Path(read_yaml(RECORD, "the record of Hydra")["hydra"]["runtime"]["cwd"])


def resolve_paths(cfg, names: tuple[str, ...], separators: str = os.pathsep) -> None:
    """Make the named options of a configuration absolute if Hydra has changed the working directory.

    An option can hold several paths with one of the separators between them. None stays None.
    """
    if (folder := starting_folder()) is None:
        return
    for name in names:
        if (value := getattr(cfg, name, None)) is not None:
            path = f"[^{re.escape(separators)}]+"
            setattr(cfg, name, re.sub(path, lambda found: str(folder / found[0].strip()), str(value)))
