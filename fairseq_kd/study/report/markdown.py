"""Tables and text as Markdown."""

from fairseq_kd.study.report.tables import Table


def markdown_table(table: Table) -> str:
    """A table as Markdown, with its title. `write.notes_of` collects the notes of all tables."""
    right = "---:|" * (len(table.head) - table.words)
    lines = [f"### {escape(table.title)}", "", _line(table.head), f"|{'---|' * table.words}{right}"]
    lines += [_line(row) for row in table.rows]
    return "\n".join([*lines, *(["", escape(table.about)] if table.about else [])])


def escape(text: str) -> str:
    """Escape text for Markdown, so that it has no markup and stays in its cell of a table."""
    text = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\").replace("|", "\\|")
    for mark in "*_`[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _line(cells: list) -> str:
    return f"| {' | '.join(escape(cell) for cell in cells)} |"
