"""The command blocks of README.md and docs/: found, and parsed by the programs that they are for."""

import argparse
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from conftest import PACKAGE, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
PAGES = [page for page in PAGES if not {"_build", "generated"} & set(page.parts)]
MARKERS = ("run by", "options checked", "not run")
COMMAND = re.compile(
    r"^(fairseq-(kd|train|preprocess|hydra-train) |fairseq-\w+ \S+ --|(make|pip|python|export|torchrun) \S)"
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its place, its content, and the comment before it as kind and text."""

    page: Path
    line: int
    language: str
    text: str
    marker: str | None
    remark: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[str]:
        """The lines of a bash block, continued ones joined, without comments and the dots of a shortened command."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def blocks_in(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found, text = [], page.read_text(encoding="utf-8")
    fence = re.compile(r"(?:^<!-- ([\w ]+): (.*?) -->\n)?^```([^\n]*)\n(.*?)^```$", re.M | re.S)
    for match in fence.finditer(text):
        line = text[: match.start(3)].count("\n") + 1
        marker, remark, language, content = match.groups()
        found.append(Block(page, line, language, content, marker, remark or ""))
    return found


def all_blocks() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in PAGES for block in blocks_in(page)]


def blocks_run_by(test: str) -> list[Block]:
    """The blocks whose marker names `test`. A test that runs commands of a page takes them from here."""
    return [block for block in all_blocks() if block.marker == "run by" and block.remark.split("::")[-1] == test]


def with_user_dir(commands: list[str]) -> list[str]:
    """Commands of a page with the output of `fairseq-kd user-dir` in its place, as a shell puts it in."""
    return [command.replace("$(fairseq-kd user-dir)", str(PACKAGE)) for command in commands]


def parse_command(command: str) -> None:
    """Parse a command with the real parser of its program. Raises KDError for what it refuses."""
    from fairseq_kd.core.commands import load_command
    from fairseq_kd.study import check

    program, *words = [word for word in shlex.split(command) if word != "..."]
    if program == "fairseq-train":
        check._check_training(command, _complete(words))
        return
    assert program == "fairseq-kd", command
    name, *options = words
    parser = argparse.ArgumentParser(allow_abbrev=False)
    load_command(name).add_arguments(parser)
    if parser.get_default("passed_on") is None:
        check._check_tool(command, words)
        return
    args, passed_on = parser.parse_known_args(options)  # the others are options of a model of fairseq, or Snakemake's
    if not hasattr(args, "arch"):
        assert passed_on == [], command
        return
    check._check_training(command, _complete(["DATA", "--arch", args.arch, *passed_on]))


def _complete(words: list[str]) -> list[str]:
    """Options of fairseq-train with those that a shortened command leaves out; --user-dir last, as `check` wants it."""
    if "--user-dir" in words:
        at = words.index("--user-dir")
        words = words[:at] + words[at + 2 :]
    for option, value in (("--optimizer", "adam"), ("--arch", "transformer")):
        words = words if option in words else [*words, option, value]
    return [*words, "--user-dir", str(PACKAGE)]
