r"""Tables as LaTeX, one file per table, for `\input`. They need \usepackage{booktabs}."""

from fairseq_kd.study.report.plots import slug
from fairseq_kd.study.report.tables import Table

# Characters with a meaning in LaTeX, and characters that its standard fonts lack. "−" is U+2212.
ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the end of a line it would begin an argument
    "*": "{*}",
    "±": r"$\pm$",
    "▲": r"$\uparrow$",
    "▼": r"$\downarrow$",
    "–": r"\textendash{}",
    "−": "$-$",
    "α": r"$\alpha$",
    **{character: f"\\{character}" for character in "&%$#_"},
}


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    found = "".join(ESCAPES.get(character, character) for character in " ".join(str(text).split()))
    return found.replace("--", "-{}-")  # two hyphens would become a dash


def tex_files(tables: list[Table], study: str) -> dict:
    """Name of the file -> its content, for each table. study: name of the study, for captions and labels."""
    files = {}
    for table in tables:
        name = first = slug(table.name or table.title) or "table"
        number = 1
        while f"{name}.tex" in files:  # names in other alphabets lose their letters
            number += 1
            name = f"{first}-{number}"
        files[f"{name}.tex"] = latex_table(table, study, name)
    return files


def latex_table(table: Table, study: str, name: str) -> str:
    """The table with caption, label and notes."""
    columns = "l" * table.words + "r" * (len(table.head) - table.words)
    label = f"tab:{slug(study)}-{name}"
    notes = " ".join(filter(None, [table.about, *table.notes]))
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(f'{study}: {table.title}. {notes}')}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _line(table.head),
        r"\midrule",
        *map(_line, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: list) -> str:
    return f"{' & '.join(map(escape_latex, cells))} \\\\"
