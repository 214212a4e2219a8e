"""A program of Flower: `python -m fairseq_kd.cli.flower_program NAME ARGUMENTS...`. It is no command for users."""

import sys
from importlib.metadata import distribution

SERVER = "flwr-serverapp"


def main(name: str, words: list[str]) -> None:
    """Run the program as its own script does. The server of the rounds evaluates, so it needs the plugin."""
    if name == SERVER:
        from fairseq_kd import register

        register()
    (script,) = distribution("flwr").entry_points.select(group="console_scripts", name=name)
    sys.argv = [name, *words]
    sys.exit(script.load()())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
