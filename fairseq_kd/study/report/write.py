"""Write the report of a study. The same results give the same files.

The templates next to this file turn what the other modules found into HTML and Markdown.
"""

import importlib.util
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from fairseq_kd.artifacts.folders import folder_in_progress
from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.writing import write_text
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.picture import standing_alone
from fairseq_kd.study.claims import read_claim_results
from fairseq_kd.study.plan import Plan
from fairseq_kd.study.report.cells_csv import write_cells
from fairseq_kd.study.report.changes import REMEDY, TITLE, change_figures, change_tables, find_changes, goes_on
from fairseq_kd.study.report.draw import renamed
from fairseq_kd.study.report.drops import drop_tables
from fairseq_kd.study.report.federated import federated_rounds, has_rounds
from fairseq_kd.study.report.good_teachers import good_teachers
from fairseq_kd.study.report.latex import tex_files
from fairseq_kd.study.report.markdown import escape, markdown_table
from fairseq_kd.study.report.measured import latency_figures, noise_figures, reliability_figures, training_figures
from fairseq_kd.study.report.outcome import best_row, short_table
from fairseq_kd.study.report.plots import Figure, factor_figures
from fairseq_kd.study.report.provenance import failures, older, provenance_tables, signatures, unfinished
from fairseq_kd.study.report.rows import METRICS, Study, read_study
from fairseq_kd.study.report.tables import Table, measure_tables, score_tables
from fairseq_kd.study.report.tested import describe_study
from fairseq_kd.study.report.tuning import tuning
from fairseq_kd.study.report.verdicts import claim_table, count_verdicts
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


HTML_NAME, MARKDOWN_NAME, CSV_NAME, PLOTS, TABLES = "report.html", "report.md", "cells.csv", "plots", "tables"
NEEDED = ("matplotlib", "jinja2")


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


def write_report(plan: Plan, work: Path, latex: bool = False) -> str:
    """Write results.json and the report of a finished or unfinished study; return its main parts as Markdown.

    latex: whether to write tables/*.tex. The tables of an earlier report are always written again.
    Raises KDError, before anything is written, when a package is missing or another process writes the report.
    """
    check_packages()
    with exclusive(work / "report"):
        return _write_report(plan, work, latex or (work / TABLES).is_dir())


def describe_files(work: Path) -> str:
    """One line: the files of the report."""
    tables = f", {work / TABLES}/" if (work / TABLES).is_dir() else ""
    return f"wrote {work / HTML_NAME}, {work / MARKDOWN_NAME}, {work / CSV_NAME}{tables} and {work / PLOTS}/"


def _write_report(plan: Plan, work: Path, latex: bool) -> str:
    results = write_results(plan, work)
    study = read_study(results, work)
    changes = find_changes(plan, study, work)
    figures, omitted = _figures(plan, study, work, changes)
    parts = [federated_rounds(plan, study, work)] if has_rounds(plan) else []
    parts += [good_teachers(study, results), tuning(study, plan.spec)]
    drawn = [*figures, *(figure for part in parts for figure in part.figures)]
    content = _outcome(plan, study, results, work) | {
        "study": study,
        "cells": len(results["cells"]),
        "done": sum(cell["state"] == "done" for cell in results["cells"]),
        "older": older(results),
        "unfinished": unfinished(results),
        "failures": failures(plan, work),
        "measures": measure_tables(study),
        "changes": change_tables(study, changes),
        "figures": figures,
        "omitted": omitted,
        "parts": [part for part in parts if not part.absent],
        "absent": [part for part in parts if part.absent],
        "signatures": signatures(study),
        "provenance": provenance_tables(plan, study, work, results),
        "commands": {name: command or "(not run yet)" for name, command in results["commands"].items()},
    }
    tables = [table for name in ("main", "folded", "measures", "changes") for table in content[name]]
    content["notes"] = notes_of(tables)
    captions = Counter(figure.caption for figure in figures)
    content["captions"] = [caption for caption, count in captions.items() if count > 1]
    _write_files(work / PLOTS, {f"{figure.name}.svg": standing_alone(figure.svg) for figure in drawn})
    if latex:
        tables += [table for part in parts for table in part.tables]
        _write_files(work / TABLES, tex_files(tables, study.name))
    write_text(work / CSV_NAME, write_cells(study, list(plan.spec.factors)))
    write_text(work / HTML_NAME, render("report.html.j2", content))
    write_text(work / MARKDOWN_NAME, render("report.md.j2", content | {"plots": PLOTS}))
    return render("printed.md.j2", content)


def _outcome(plan: Plan, study: Study, results: dict, work: Path) -> dict:
    """What was tested and what came out: verdicts, main tables, and tables of other metrics, which are folded."""
    verdicts = read_claim_results(results)
    claims = claim_table(verdicts)
    tables = {table.name: table for table in score_tables(study)}
    groups = [[tables[metric], *drop_tables(study, metric)] for metric in study.metrics()]
    first, *others = groups or [[]]
    return {
        "tested": describe_study(plan, study, work),
        "verdicts": verdicts,
        "counted": count_verdicts(verdicts),
        "short": short_table(study),
        "best": best_row(study),
        "main": [*([claims] if claims else []), *first],
        "other_metrics": [METRICS.get(metric, metric) for metric in study.metrics()[1:]],
        "folded": [table for group in others for table in group],
    }


def notes_of(tables: list[Table]) -> list[str]:
    """The notes of several tables, each once."""
    return list(dict.fromkeys(note for table in tables for note in table.notes))


def _figures(plan: Plan, study: Study, work: Path, changes: list) -> tuple[list[Figure], list[Omitted]]:
    """The plots with data, and the kinds of plots without."""
    kinds = (
        (factor_figures(study), "BLEU against the factors", "finish a cell: fairseq-kd study run"),
        (noise_figures(study), "BLEU against noise in the source",
         "give evaluate: {noise: [0, 10]} in the spec, or evaluate: {noise-levels: [0, 10]}"),
        (reliability_figures(study), "Reliability diagrams", "give evaluate: {calibration: true} in the spec"),
        (latency_figures(study), "BLEU against latency", "give evaluate: {latency: 100} in the spec"),
        (training_figures(study, work), "Training curves",
         "the trainings have not validated yet, or their train.log was removed"),
        *([(change_figures(changes), TITLE, REMEDY)] if goes_on(plan) else []),
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


def _write_files(folder: Path, files: dict) -> None:
    """Write a folder of text files, and remove the files of an earlier report. files: name -> content."""
    shutil.rmtree(folder.with_name(f".{folder.name}"), ignore_errors=True)  # an earlier version's, killed
    shutil.rmtree(folder, ignore_errors=True)
    with folder_in_progress(folder) as temporary:
        for name, content in files.items():
            write_text(temporary / name, content)
