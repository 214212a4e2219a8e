"""Write the report of a study: report.html, report.md and plots/*.svg. The same results give the same files.

The templates next to this file turn tables and figures into HTML and Markdown.
"""

import importlib.util
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from fairseq_kd.artifacts.folders import folder_in_progress
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.writing import write_text
from fairseq_kd.core.errors import KDError
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.report.draw import renamed
from fairseq_kd.study.report.measured import latency_figures, noise_figures, reliability_figures, training_figures
from fairseq_kd.study.report.plots import Figure, factor_figures
from fairseq_kd.study.report.provenance import (
    artefact_table,
    data_table,
    failures,
    older,
    signatures,
    unfinished,
    version_table,
)
from fairseq_kd.study.report.rows import Study, read_study
from fairseq_kd.study.report.tables import Table, claim_table, measure_tables, score_tables
from fairseq_kd.study.show import write_results

FOLDER = Path(__file__).parent


def render(template: str, content: dict) -> str:
    """Fill a template. HTML escapes all values; Markdown escapes them by the filter `cell` and in `markdown_table`."""
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
    """A table as Markdown, with its title and notes."""
    right = "---:|" * (len(table.head) - table.words)
    lines = [f"## {escape(table.title)}", "", _line(table.head), f"|{'---|' * table.words}{right}"]
    lines += [_line(row) for row in table.rows]
    return "\n".join([*lines, *(part for note in table.notes for part in ("", escape(note)))])


def escape(text: str) -> str:
    """Escape text for Markdown, so that it has no markup and stays in its cell of a table."""
    text = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\").replace("|", "\\|")
    for mark in "*_`[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _line(cells: list) -> str:
    return f"| {' | '.join(escape(cell) for cell in cells)} |"


HTML_NAME, MARKDOWN_NAME, PLOTS = "report.html", "report.md", "plots"
NEEDED = ("matplotlib", "jinja2")
# A picture outside of the page has a light or dark background: its text follows the reader's setting.
STYLE = "<style>svg { color: #1b1f24 } @media (prefers-color-scheme: dark) { svg { color: #e6e8ea } }</style>"


@dataclass(frozen=True)
class Omitted:
    """A kind of plot without data, and how to get the data."""

    title: str
    remedy: str


def check_packages() -> None:
    """Raises KDError when a package that reports need is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise KDError(f"reports need {' and '.join(missing)}: pip install 'fairseq_kd[report]'")


def write_report(plan: Plan, work: Path) -> str:
    """Write results.json and the report of a finished or unfinished study; return its main tables as Markdown.

    Raises KDError, before anything is written, when a package is missing or another process writes the report.
    """
    check_packages()
    with exclusive(work / "report"):
        return _write_report(plan, work)


def _write_report(plan: Plan, work: Path) -> str:
    results = write_results(plan, work)
    study = read_study(results, work)
    figures, omitted = _figures(study, work)
    main = [table for table in (claim_table(results), *score_tables(study)) if table is not None]
    others = [data_table(study), version_table(plan, work), artefact_table(plan, work, results)]
    content = {
        "study": study,
        "cells": len(results["cells"]),
        "done": sum(cell["state"] == "done" for cell in results["cells"]),
        "older": older(results),
        "unfinished": unfinished(results),
        "failures": failures(plan, work),
        "main": main,
        "measures": measure_tables(study),
        "figures": figures,
        "omitted": omitted,
        "signatures": signatures(study),
        "provenance": [table for table in others if table is not None],
        "commands": {name: command or "(not run yet)" for name, command in results["commands"].items()},
    }
    _write_plots(work / PLOTS, figures)
    write_text(work / HTML_NAME, render("report.html.j2", content))
    write_text(work / MARKDOWN_NAME, render("report.md.j2", content | {"plots": PLOTS}))
    notes = [*content["older"], *content["unfinished"]]
    return "\n\n".join([*(f"**{line}**" for line in notes), *map(markdown_table, main)])


def _figures(study: Study, work: Path) -> tuple[list[Figure], list[Omitted]]:
    """The plots with data, and the kinds of plots without."""
    kinds = (
        (factor_figures(study), "BLEU against the factors", "finish a cell: fairseq-kd study run"),
        (noise_figures(study), "BLEU against noise in the source",
         "give evaluate: {noise: [0, 10]} in the spec, or evaluate: {noise-levels: [0, 10]}"),
        (reliability_figures(study), "Reliability diagrams", "give evaluate: {calibration: true} in the spec"),
        (latency_figures(study), "BLEU against latency", "give evaluate: {latency: 100} in the spec"),
        (training_figures(study, work), "Training curves",
         "the trainings have not validated yet, or their train.log was removed"),
    )  # fmt: skip
    figures = _distinct([figure for found, _, _ in kinds for figure in found])
    return figures, [Omitted(title, remedy) for found, title, remedy in kinds if not found]


def _distinct(figures: list[Figure]) -> list[Figure]:
    """Give each figure another name, for its file and ids: names of factors in other alphabets lose their letters."""
    found = {}
    for figure in figures:
        name, number = figure.name, 1
        while name in found:
            number += 1
            name = f"{figure.name}-{number}"
        found[name] = replace(figure, name=name, svg=renamed(figure.svg, figure.name, name))
    return list(found.values())


def _write_plots(folder: Path, figures: list[Figure]) -> None:
    """Write the figures as files, and remove the files of an earlier report."""
    shutil.rmtree(folder.with_name(f".{folder.name}"), ignore_errors=True)  # an earlier version's, killed
    shutil.rmtree(folder, ignore_errors=True)
    with folder_in_progress(folder) as temporary:
        for figure in figures:
            start = figure.svg.index(">") + 1
            write_text(temporary / f"{figure.name}.svg", f"{figure.svg[:start]}{STYLE}{figure.svg[start:]}\n")
