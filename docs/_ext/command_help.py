"""The directive `commands`: what `fairseq-kd COMMAND --help` prints, for every command."""

import argparse

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from fairseq_kd.core.commands import COMMANDS, load_command

WIDTH = 88


class Commands(SphinxDirective):
    """One section per command, with its help as a literal block."""

    def run(self) -> list[nodes.Node]:
        """The sections."""
        return [self._section(name, summary) for name, summary in COMMANDS.items()]

    def _section(self, name: str, summary: str) -> nodes.section:
        section = nodes.section(ids=[f"fairseq-kd-{name}"], names=[f"fairseq-kd {name}"])
        help_text = nodes.literal_block(text=help_of(name, summary), language="text")
        section += [nodes.title(text=f"fairseq-kd {name}"), help_text]
        return section


def help_of(name: str, summary: str) -> str:
    """The text that `fairseq-kd NAME --help` prints, in lines of WIDTH characters."""

    def formatter(prog):
        return argparse.HelpFormatter(prog, width=WIDTH, max_help_position=30)

    parser = argparse.ArgumentParser(
        prog=f"fairseq-kd {name}", description=f"{summary.capitalize()}.", formatter_class=formatter
    )
    load_command(name).add_arguments(parser)
    return parser.format_help()


def setup(app) -> dict:
    """Declare the directive; called by Sphinx."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
