#!/usr/bin/env python3
"""Figures of a Python package by its syntax trees: files, functions, docstrings, packages, layers.

Usage: python scripts/code_figures.py [FOLDER ...]   (default: fairseq_kd; several folders become columns)
"""

import argparse
import ast
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

SMALL = 60  # lines; a file below needs a reason to be one
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Place = tuple[int, str]  # lines, where


@dataclass
class Figures:
    """What is counted in one folder.

    files, functions: lines and place of each; a function is measured from `def` to its last line, nested ones too.
    documented: for each public class, function and method, whether it has a docstring; what is nested in a function
    or belongs to a private class is not public. imports: package -> packages of the same folder that it imports,
    inside functions too.
    """

    files: list[Place] = field(default_factory=list)
    functions: list[Place] = field(default_factory=list)
    documented: list[bool] = field(default_factory=list)
    imports: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def read_figures(folder: Path) -> Figures:
    """The figures of every Python file below `folder`. Raises SyntaxError for a file that Python cannot read."""
    figures, folder = Figures(), folder.resolve()
    for path in sorted(folder.rglob("*.py")):
        place, text = str(path.relative_to(folder)), path.read_text(encoding="utf-8")
        tree = ast.parse(text, filename=str(path))
        figures.files.append((len(text.splitlines()), place))
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS):
                figures.functions.append((node.end_lineno - node.lineno + 1, f"{place}:{node.lineno} {node.name}"))
        figures.documented += _documented(tree)
        package = _package(folder, place.removesuffix(".py").split("/"))
        if package != folder.name:  # the package itself may import all of its parts
            figures.imports[package] |= _imported(tree, folder) - {package, folder.name}
    return figures


def _documented(scope) -> list[bool]:
    found = []
    for node in scope.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            found.append(ast.get_docstring(node) is not None)
            found += _documented(node) if isinstance(node, ast.ClassDef) else []
    return found


def _package(folder: Path, parts: list[str]) -> str:
    """The first-level package or module that a dotted name below the folder belongs to, or the folder itself."""
    known = parts and ((folder / parts[0]).is_dir() or (folder / f"{parts[0]}.py").is_file())
    return parts[0] if known and parts[0] != "__init__" else folder.name


def _imported(tree, folder: Path) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    dotted = [name.split(".") for name in names]
    return {_package(folder, parts[1:]) for parts in dotted if parts[0] == folder.name}


def circles_and_layers(imports: dict[str, set[str]]) -> tuple[list[set[str]], int]:
    """(groups of packages that import each other in circles, number of layers).

    The layers: packages on the longest chain of imports, where a circle counts as one.
    """
    below = {package: _reachable(imports, package) for package in imports}
    circles = {frozenset(other for other in below[package] if package in below.get(other, ())) for package in below} - {
        frozenset()
    }
    group = {package: next((circle for circle in circles if package in circle), package) for package in below}
    depth = {}

    def measure(package) -> int:
        if group[package] not in depth:
            lower = {other for other in below[package] if group[other] != group[package]}
            depth[group[package]] = 1 + max(map(measure, lower), default=0)
        return depth[group[package]]

    return [set(circle) for circle in circles], max(map(measure, below), default=0)


def _reachable(imports: dict[str, set[str]], start: str) -> set[str]:
    found, waiting = set(), list(imports[start])
    while waiting:
        if (package := waiting.pop()) not in found:
            found.add(package)
            waiting += imports.get(package, ())
    return found


def rows(figures: Figures) -> dict[str, str]:
    """Name of a figure -> its value, as the table shows it."""
    lengths = sorted(lines for lines, _ in figures.functions)
    modules = [(lines, place) for lines, place in figures.files if not place.endswith("__init__.py")]
    circles, layers = circles_and_layers(figures.imports)
    largest_file, largest_function = max(modules), max(figures.functions)
    return {
        "files": str(len(figures.files)),
        "files without __init__.py": str(len(modules)),
        "lines": f"{sum(lines for lines, _ in figures.files):,}",
        "median file without __init__.py, lines": f"{statistics.median(lines for lines, _ in modules):g}",
        "largest file, lines": f"{largest_file[0]} ({largest_file[1]})",
        f"files under {SMALL} lines, without __init__.py": str(sum(lines < SMALL for lines, _ in modules)),
        "functions": f"{len(lengths):,}",
        "median function, lines": f"{statistics.median(lengths):g}",
        "95 % of functions, lines at most": str(lengths[math.ceil(0.95 * len(lengths)) - 1]),
        "largest function, lines": f"{largest_function[0]} ({largest_function[1]})",
        "public docstrings": f"{sum(figures.documented) / len(figures.documented):.1%}",
        "packages and modules of the first level": str(len(figures.imports)),
        "layers": str(layers),
        "packages in import cycles": " + ".join(str(len(circle)) for circle in circles) or "0",
    }


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parent.parent / "fairseq_kd"
    parser.add_argument("folders", nargs="*", type=Path, default=[default], metavar="FOLDER")
    folders = parser.parse_args().folders
    columns = [rows(read_figures(folder)) for folder in folders]
    print("|", " | ".join(["", *map(str, folders)]), "|")
    print("|---" * (len(folders) + 1) + "|")
    for name in columns[0]:
        print("|", " | ".join([name, *(column[name] for column in columns)]), "|")


if __name__ == "__main__":
    main()
