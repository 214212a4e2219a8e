"""Imports go downward only. LAYERS is the one list of the layers, highest first."""

import ast
from pathlib import Path

import pytest

import fairseq_kd

PACKAGE = Path(fairseq_kd.__file__).parent
# A package imports packages of lower lines only, so two of the same line do not know each other. "fairseq_kd" is the
# package itself: `register`, and what a --user-dir imports.
LAYERS = """
cli
fairseq_kd
search
study
federated
quickstart
evaluation
criterions tasks sequence noise partition pruning
export teacher
models training cache scoring
corpus
inference
artifacts
loss
core
version
"""
FLOORS = {room: -floor for floor, line in enumerate(LAYERS.split("\n")) for room in line.split()}
# The only modules that import what their caller names: a sub-command; a module of the package that asks.
LOADS_BY_NAME = ("core/commands.py", "core/public.py")


def breaches(package: Path) -> list[str]:
    """FILE:LINE of every import of a package that is not lower, wherever in the file it is."""
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package)
        room = place.parts[0].removesuffix(".py").replace("__init__", package.name)
        for node in ast.walk(ast.parse(path.read_text())):
            for name in names_of(node, package.name):
                other = room_of(name, package)
                if other != room and not FLOORS[other] < FLOORS[room]:
                    found.append(f"{place}:{node.lineno}: {room} imports {name}")
            if isinstance(node, ast.Attribute) and node.attr == "import_module" and str(place) not in LOADS_BY_NAME:
                found.append(f"{place}:{node.lineno}: imports by name")
    return found


def names_of(node, package: str) -> list[str]:
    """The modules of the package that an import statement names."""
    if isinstance(node, ast.Import):
        names = [f"{alias.name}." for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, "imports are absolute"
        names = [f"{node.module}.{alias.name}" if node.module == package else node.module for alias in node.names]
    else:
        names = []
    return [name for name in names if name.split(".")[0] == package]


def room_of(module: str, package: Path) -> str:
    room = module.split(".")[1]
    return room if (package / room).exists() or (package / f"{room}.py").exists() else package.name


def test_imports_go_downward_only():
    assert breaches(PACKAGE) == []


def test_every_package_has_its_layer():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__", "configs"} == FLOORS.keys() - {"fairseq_kd"}


@pytest.mark.parametrize(
    ("place", "text", "said"),
    [
        ("loss/signal.py", "import torch\nfrom fairseq_kd.inference.device import choose_device\n", "loss/signal.py:2"),
        ("core/errors.py", "def f():\n    import fairseq_kd.artifacts.manifest\n", "core/errors.py:2"),
        ("cache/reader.py", "def f():\n    from fairseq_kd import register\n", "cache/reader.py:2"),
        ("tasks/distilled.py", "from fairseq_kd.noise.text import noise_text\n", "tasks/distilled.py:1"),
        ("study/plan.py", "import importlib\nimportlib.import_module('fairseq_kd.cli.main')\n", "study/plan.py:2"),
    ],
)
def test_a_breach_is_named(tmp_path, place, text, said):
    package = tmp_path / "fairseq_kd"
    for room in FLOORS:
        (package / room).mkdir(parents=True)
    (package / place).write_text(text)
    found = breaches(package)
    assert len(found) == 1
    assert found[0].startswith(said)
