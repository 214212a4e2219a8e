"""The limits of size, and the script that prints the figures of the code."""

import runpy
from types import SimpleNamespace

import pytest
from conftest import PACKAGE, ROOT

FILE, FUNCTION = 250, 50  # lines

SCRIPT = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "code_figures.py")))
FIGURES = SCRIPT.read_figures(PACKAGE)


@pytest.mark.parametrize(
    ("measured", "limit"), [(FIGURES.files, FILE), (FIGURES.functions, FUNCTION)], ids=["files", "functions"]
)
def test_no_file_and_no_function_is_above_the_limit(measured, limit):
    assert [f"{place}: {lines} lines" for lines, place in measured if lines > limit] == []
    assert len(measured) > 100  # the package was found


def test_figures_worked_by_hand(tmp_path):
    files = {
        "__init__.py": "import mine.high\n",
        "high/__init__.py": "",
        "high/one.py": 'def f():\n    """Said."""\n\n    def inner():\n        import mine.low.two\n    return inner\n',
        "low/two.py": "class C:\n    @property\n    def g(self):\n        return 1\n\n    def _h(): ...\nimport os\n",
        "a.py": "from mine import b\n",
        "b.py": "from mine.a import x\nfrom mine import low\n",
    }
    for name, text in files.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = SCRIPT.rows(SCRIPT.read_figures(tmp_path / "mine"))
    assert found == {
        "files": "6",
        "files without __init__.py": "4",  # of 6, 7, 1 and 2 lines
        "lines": "17",
        "median file without __init__.py, lines": "4",
        "largest file, lines": "7 (low/two.py)",
        "files under 60 lines, without __init__.py": "4",
        "functions": "4",  # of 6, 2, 2 and 1 lines
        "median function, lines": "2",
        "95 % of functions, lines at most": "6",
        "largest function, lines": "6 (high/one.py:1 f)",
        "public docstrings": "33.3%",  # f, but not C and C.g
        "packages and modules of the first level": "4",
        "layers": "2",  # low; high, and the circle of a and b
        "packages in import cycles": "2",
    }


def test_layers_are_the_longest_chain():
    """d imports c, c imports b, a and b import each other: the circle is the lowest of three layers."""
    imports = {"d": {"c", "a"}, "c": {"b"}, "b": {"a"}, "a": {"b"}}
    assert SCRIPT.circles_and_layers(imports) == ([{"a", "b"}], 3)
