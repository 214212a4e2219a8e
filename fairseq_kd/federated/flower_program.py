"""`python -m fairseq_kd.federated.flower_program NAME ARGUMENTS...` is the program NAME of Flower.

The engine starts Flower's programs as forks of one process that has loaded Flower, torch and fairseq. Flower starts
further programs by their names, so the engine puts a folder with `write_programs` first on their search path.
"""

import shlex
import sys
from importlib.metadata import distribution
from pathlib import Path

MODULE = "fairseq_kd.federated.flower_program"
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


def main(name: str, words: list[str]) -> None:
    """Run the program as its own script does."""
    (script,) = distribution("flwr").entry_points.select(group="console_scripts", name=name)
    sys.argv = [name, *words]
    sys.exit(script.load()())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
