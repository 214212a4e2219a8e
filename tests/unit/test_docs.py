import ast
import functools
import re

import pytest
from conftest import PACKAGE, ROOT
from docs_helpers import COMMAND, MARKERS, PAGES, all_blocks, blocks_run_by, parse_command
from scipy.stats import ttest_rel

ALL_PAGES = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "data-bin" / "README.md"]
DOCS = ROOT / "docs"


def anchors(page) -> set[str]:
    """The anchors that GitHub and MyST give the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_have_no_dead_link_and_nothing_left_to_fill_in(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if not target.startswith("http"):
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target
    prose = re.sub(r"`[^`]*`", "", re.sub(r"```.*?```", "", text, flags=re.S))
    assert not re.findall(r"\b[A-Z]{4,}_[A-Z]{4,}\b|TODO|FIXME", prose)
    assert not re.findall(r"^[A-Z]{4,}_[A-Z]{4,}$", text, flags=re.M)


def test_every_command_block_is_run_or_checked_or_says_why_not():
    """A block of commands has the language bash and a comment before it; other blocks hold no commands."""
    wrong = []
    for block in all_blocks():
        if block.language in ("bash", "python"):
            if block.marker not in MARKERS or len(block.remark) < 5:
                wrong.append(f"{block}: needs <!-- {'|'.join(MARKERS)}: ... --> on the line before it")
        elif block.language in ("text", "") and (found := [s for s in block.text.splitlines() if COMMAND.match(s)]):
            wrong.append(f"{block}: {found[0]!r} is a command: make it a bash block with a marker")
    assert wrong == []


def test_the_tests_that_are_named_exist_and_take_the_commands_from_the_page():
    named = {block.remark for block in all_blocks() if block.marker == "run by"} - {".ci/run"}
    assert len(named) >= 6
    for place in named:
        path, _, test = place.partition("::")
        source = (ROOT / path).read_text()
        assert f"def {test}(" in source and f'blocks_run_by("{test}")' in source, place


def test_what_ci_runs_is_what_the_pages_say():
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    blocks = blocks_run_by(".ci/run")
    assert len(blocks) >= 2
    assert all(command in ci for block in blocks for command in block.commands())


@pytest.mark.parametrize("block", [b for b in all_blocks() if b.marker == "options checked"], ids=str)
def test_the_options_of_the_commands_are_those_of_the_programs(block):
    from fairseq_kd import register

    register()
    commands = block.commands()
    assert commands
    for command in commands:
        parse_command(command)


def test_the_check_of_options_finds_a_wrong_one():
    from fairseq_kd.core.errors import KDError

    for command in (
        "fairseq-kd decode data --teacher t.pt --out o --strategi beam",
        "fairseq-kd decode data --teacher t.pt --out o --strategy greedy --beam 5",
        "fairseq-train data ... --criterion kd_word --teacher t.pt --kd-wait 0.5",
        "fairseq-train data ... --criterion kd_word --teacher t.pt --kd-weight 2",
    ):
        with pytest.raises(KDError):
            parse_command(command)


def test_the_strategy_of_the_page_is_that_of_its_test():
    example = next(block for block in all_blocks() if "class Backwards" in block.text)
    assert example.text in (ROOT / "tests" / "unit" / "test_strategies.py").read_text()


MODULE = re.compile(r"\bfairseq_kd(?:/[\w./-]*\w|(?:\.\w+)+)")


def missing_names(text: str) -> list[str]:
    """Paths and dotted names of the package in a text that do not exist, such as fairseq_kd/loss/x.py."""
    return [name for name in MODULE.findall(text) if not (_exists_as_path(name) if "/" in name else _resolves(name))]


def _exists_as_path(name: str) -> bool:
    return (ROOT / name).exists()


def _resolves(name: str) -> bool:
    """Whether a dotted name is a module, or a name that a module defines or imports. Nothing is imported."""
    _, *parts = name.split(".")
    for count in range(len(parts), -1, -1):
        place = PACKAGE.joinpath(*parts[:count])
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if file.is_file():
            return count == len(parts) or _defines(file, parts[count])
    return False


def _defines(file, name: str) -> bool:
    body = ast.parse(file.read_text()).body
    aliases = {alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    assigned = {target.id for target in targets if isinstance(target, ast.Name)}
    return name in aliases | assigned | {getattr(node, "name", None) for node in body}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_and_names_on_the_pages_exist(page):
    assert missing_names(page.read_text()) == []


def test_the_check_of_names_finds_a_wrong_one():
    right = (
        "fairseq_kd/loss/rows.py fairseq_kd.loss fairseq_kd.core.errors.KDError. fairseq_kd.loss.divergences.register"
    )
    wrong = ["fairseq_kd/loss/none.py", "fairseq_kd.los", "fairseq_kd.core.errors.KDErrors", "fairseq_kd.core.none.x"]
    assert missing_names(f"{right} {' '.join(wrong)}") == wrong


def test_the_readme_is_short_and_links_every_guide():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    included = {"index.md", "CONTRIBUTING.md", "CHANGELOG.md", "commands.md"}
    guides = {page.name for page in DOCS.glob("*.md")} - included
    assert guides <= set(re.findall(r"\]\(docs/([\w-]+\.md)\)", text))


def test_every_page_is_in_the_navigation_of_the_site():
    text = (DOCS / "index.md").read_text()
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```$", text, re.S | re.M)
    listed = {name for tree in trees for name in tree.splitlines() if name and not name.startswith(":")}
    assert listed == {page.stem for page in DOCS.glob("*.md")} - {"index"} | {"api/index"}


def test_the_api_pages_list_every_package():
    listed = set(re.findall(r"^   fairseq_kd\.(\w+)$", (DOCS / "api" / "index.md").read_text(), re.M))
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert listed == packages - {"cli"}  # the commands have a page of their own


@functools.cache
def nodes_of_the_package() -> list:
    """(file, node) of the syntax trees of all modules, without docstrings."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docstrings = [n.body[0] for n in ast.walk(tree) if isinstance(n, documented) and ast.get_docstring(n)]
        inside = {id(node.value) for node in docstrings}
        found += [(path, node) for node in ast.walk(tree) if id(node) not in inside]
    return found


def messages() -> list[tuple[str, str]]:
    """(place, text) of every KDError in the package, subclasses included; what is put in at run time is "X"."""
    nodes = nodes_of_the_package()
    classes = [node for _, node in nodes if isinstance(node, ast.ClassDef)]
    errors = {"KDError"} | {c.name for c in classes if "KDError" in [getattr(base, "id", None) for base in c.bases]}
    found = []
    for path, node in nodes:
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in errors and node.args:
            text = _text_of(node.args[0])
            if re.search(r"\w{3}", text):  # else the text is made elsewhere
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", text))
    return found


def _text_of(node) -> str:
    pieces = _pieces(node)
    return "".join(p.value if isinstance(p, ast.Constant) and isinstance(p.value, str) else "X" for p in pieces)


def _pieces(node) -> list:
    if isinstance(node, ast.JoinedStr):
        return node.values
    if isinstance(node, ast.BinOp):
        return [*_pieces(node.left), *_pieces(node.right)]
    return [node]


def patterns() -> list[list[str]]:
    """The messages of docs/troubleshooting.md, each as its parts between "...", which means any text."""
    text = (DOCS / "troubleshooting.md").read_text().split("## Messages of other programs")[0]
    cells = re.findall(r"^\| (`.*?`) \|", text, re.M)
    written = [pattern for cell in cells for pattern in re.findall(r"`([^`]+)`", cell)]
    return [[part.strip() for part in pattern.split("...") if part.strip()] for pattern in written]


def holds(text: str, parts: list[str]) -> bool:
    """Whether the parts are in `text`, one after the other."""
    at = 0
    for part in parts:
        if (found := text.find(part, at)) < 0:
            return False
        at = found + len(part)
    return True


def test_troubleshooting_covers_every_error_of_the_package():
    """A new error needs a row, or the words of a row that it belongs to."""
    known, found = patterns(), messages()
    assert len(found) > 400
    assert [parts for parts in known if len("".join(parts)) < 5] == []  # would be found in almost any message
    assert [f"{place}: {text}" for place, text in found if not any(holds(text, parts) for parts in known)] == []


def test_troubleshooting_has_no_message_that_the_package_does_not_print():
    texts = {_text_of(node) for _, node in nodes_of_the_package() if isinstance(node, (ast.JoinedStr, ast.Constant))}
    assert len(texts) > 2000
    assert ["...".join(parts) for parts in patterns() if not any(holds(text, parts) for text in texts)] == []


def test_the_p_value_of_seeds_that_were_added_after_a_look_says_so():
    """docs/results.md, Multi30k: t and p are the values of its table, and their meaning is next to them."""
    text = (ROOT / "docs" / "results.md").read_text()
    section = text.split("## Multi30k, German to English\n")[1].split("\n## ")[0]
    rows = re.findall(r"\| student, ([\w-]+) \| (\d) \| [\d,]+ \| [\d,]+ \| ([\d.]+) \|", section)
    scores = {model: [float(bleu) for name, _, bleu in rows if name == model] for model, _, _ in rows}
    found = ttest_rel(scores["kd_word"], scores["cross-entropy"])
    assert f"t = {found.statistic:.1f} with two degrees of freedom, p = {found.pvalue:.2f}" in " ".join(section.split())
    after = " ".join(section.split(f"p = {found.pvalue:.2f}).\n\n")[-1].split())
    assert after.startswith(
        "**This p is not valid as a test.** The number of seeds was decided after a look at the result"
    )
