import ast
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


def messages() -> list[tuple[str, str]]:
    """(place, text) of every KDError in the package; a value that is known only at run time is "X"."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "KDError" and node.args:
                parts = [
                    part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "X"
                    for part in _pieces(node.args[0])
                ]
                text = "".join(parts)
                if re.search(r"\w{3}", text):  # else the text is made elsewhere
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", text))
    return found


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
