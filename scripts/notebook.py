#!/usr/bin/env python3
"""A page of docs/ as a Jupyter notebook: each Python block becomes a cell, and the text between them becomes text.

Usage: python scripts/notebook.py docs/python.md   (writes docs/python.ipynb, without outputs)
"""

import argparse
import json
import re
from pathlib import Path

BLOCK = re.compile(r"^(?:<!-- [\w ]+: .*? -->\n)?```python\n(.*?)^```\n", re.M | re.S)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook_of(page: str) -> dict:
    """The notebook (nbformat 4.5) of the Markdown text of a page."""
    parts = BLOCK.split(page)  # text, code, text, ...
    cells = [_cell(number, number % 2 == 1, part.strip()) for number, part in enumerate(parts) if part.strip()]
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def _cell(number: int, is_code: bool, text: str) -> dict:
    cell = {"cell_type": "code" if is_code else "markdown", "id": f"part-{number}", "metadata": {}}
    if is_code:
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": text.splitlines(keepends=True)}


def main() -> None:
    """Write the notebook beside the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", metavar="PAGE.md", type=Path, help="the notebook gets its name, with .ipynb")
    page = parser.parse_args().page
    notebook = json.dumps(notebook_of(page.read_text(encoding="utf-8")), indent=1, ensure_ascii=False)
    page.with_suffix(".ipynb").write_text(notebook + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
