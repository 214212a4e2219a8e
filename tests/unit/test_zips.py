"""A zip that ends with the shortest of its arguments has taken one element too many of a generator before it."""

import ast

from conftest import ROOT

FILES = [path for folder in ("fairseq_kd", "scripts", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


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
