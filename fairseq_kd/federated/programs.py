"""Flower's programs as forks of one process that has loaded Flower, torch and fairseq (`cli.flower_program`).

Flower starts further programs by their names, so the engine puts the folder of `write_programs` first on the search
path.
"""

import shlex
import sys
from pathlib import Path

MODULE = "fairseq_kd.cli.flower_program"
STARTED_BY_FLOWER = ("flower-superexec", "flwr-clientapp", "flwr-serverapp")
PRELOADED = (  # what these programs, the app and the trainings of clients import
    "fairseq_kd",
    *(f"fairseq_kd.federated.{name}" for name in ("app", "client", "serving")),
    *(f"flwr.{name}" for name in ("cli.app", "superlink.cli", "supernode.cli", "supercore.cli")),
)
PROGRAM = """\
#!/bin/sh
exec {python} -m fairseq_kd.core.preloaded {module} {name} "$@"
"""


def write_programs(folder: Path) -> None:
    """Write a program into the folder for each of STARTED_BY_FLOWER, which runs it as a fork."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in STARTED_BY_FLOWER:
        path = folder / name
        path.write_text(PROGRAM.format(python=shlex.quote(sys.executable), module=MODULE, name=name), encoding="utf-8")
        path.chmod(0o755)
