"""Two ways in which generators go wrong without a word, in any file of the project.

A zip that ends with the shortest of its arguments has taken one element too many of a generator before it. And a block
such as `with torch.no_grad()` around a `yield` stays open while others run: of two such generators that take turns, the
one that ends last puts back what the first one had set, and torch is left without gradients.
"""

import ast

from conftest import ROOT

FOLDERS = ("fairseq_kd", "scripts", "benchmarks", "tests")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
MODES = {"no_grad", "inference_mode", "enable_grad", "set_grad_enabled", "autocast"}


def zips_that_may_lose(source: str) -> list[int]:
    """Lines of the calls of zip without strict=True (ruff's B905 asks for the word, not for its value)."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    zips = (call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "zip")
    strict = ast.dump(ast.keyword("strict", ast.Constant(True)))
    return [call.lineno for call in zips if strict not in map(ast.dump, call.keywords)]


def test_no_zip_ends_early_in_silence():
    assert zips_that_may_lose("zip(a, b, strict=True)\nzip(a, b, strict=False)\nzip(a)") == [2, 3]
    found = {str(path.relative_to(ROOT)): zips_that_may_lose(path.read_text()) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines} == {}


def yields_inside_modes(source: str) -> list[int]:
    """Lines of the blocks that set a mode of torch for the whole thread and hold a yield."""
    blocks = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.With))
    names = {
        block.lineno: {n.attr for item in block.items for n in ast.walk(item) if isinstance(n, ast.Attribute)}
        for block in blocks
        if any(isinstance(n, ast.Yield | ast.YieldFrom) for n in ast.walk(block))
    }
    return [line for line, found in names.items() if found & MODES]


def test_no_mode_of_torch_is_held_over_a_yield():
    wrong = "def f():\n    with torch.no_grad():\n        yield 1\n"
    right = "def f():\n    with torch.no_grad():\n        x = 1\n    yield x\n"
    assert yields_inside_modes(wrong) == [2] and yields_inside_modes(right) == []
    found = {str(path.relative_to(ROOT)): yields_inside_modes(path.read_text()) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines} == {}
