"""Tables and figures -> HTML and Markdown, by the templates beside this file."""

from pathlib import Path

from fairseq_kd.study.report.tables import Table

FOLDER = Path(__file__).parent


def render(template: str, content: dict) -> str:
    """A filled template. Values are escaped in HTML; in Markdown by the filter `cell` and by `markdown_table`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"table": markdown_table, "cell": escape, "svg": Markup}
    style = Markup((FOLDER / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(content, style=style)


def markdown_table(table: Table) -> str:
    """With its title and notes."""
    right = "---:|" * (len(table.head) - table.words)
    lines = [f"## {escape(table.title)}", "", _line(table.head), f"|{'---|' * table.words}{right}"]
    lines += [_line(row) for row in table.rows]
    return "\n".join([*lines, *(part for note in table.notes for part in ("", escape(note)))])


def escape(text: str) -> str:
    """Text that means nothing else in Markdown, and stays in its cell of a table."""
    text = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\").replace("|", "\\|")
    for mark in "*_`[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _line(cells: list) -> str:
    return f"| {' | '.join(escape(cell) for cell in cells)} |"
