"""The docstrings of this package are plain text. This extension gives them to Sphinx as reStructuredText.

Text between single backticks becomes code, indented lines and tables become literal blocks, and every other character
means itself, so that no docstring needs markup.
"""

import re

CODE = re.compile(r"`+([^`]+)`+")
SPECIAL = re.compile(r"([\\*_|`])")


def setup(app) -> dict:
    """Connect the extension; called by Sphinx."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}


def _process(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def to_rst(lines: list[str]) -> list[str]:
    """reStructuredText that shows plain `lines` as they were meant."""
    out: list[str] = []
    literal = False
    for line in lines:
        indented = line.startswith(" ") and line.strip()
        if indented and not literal:
            out += ["", "::", ""]
        elif literal and line.strip() and not indented:
            out += [""]
        literal = bool(indented) or (literal and not line.strip())
        out.append(f"    {line}" if indented else _escaped(line))
    return [*out, ""]


def _escaped(line: str) -> str:
    parts = CODE.split(line)  # text, code, text, ...
    shown = [f"``{part}``" if number % 2 else SPECIAL.sub(r"\\\1", part) for number, part in enumerate(parts)]
    return r"\ ".join(shown) if len(shown) > 1 else shown[0]
