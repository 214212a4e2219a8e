"""Metrics of `evaluate --metric` in the report of a study."""

import csv
import json

import pytest
from report_helpers import finish_study, plan_of

from fairseq_kd.core.errors import KDError
from fairseq_kd.study.report.drops import drop_tables
from fairseq_kd.study.report.rows import read_study
from fairseq_kd.study.report.tables import score_tables
from fairseq_kd.study.report.write import write_report
from fairseq_kd.study.show import write_results

WRONG = {  # share of wrong words: noise, method -> one score per seed
    (0, "ce"): (0.5, 0.5125, 0.525),
    (0, "word"): (0.4, 0.4126, 0.4251),
    (10, "ce"): (0.6, 0.6125, 0.625),
    (10, "word"): (0.6, 0.6125, 0.6251),
}


def finished(folder, seeds):
    """(plan, work) of a study with the metrics `wrong` and `seconds`, of which the second has the name of an entry."""
    factors = {"noise": [0, 10], "method": ["ce", "word"]} | ({"seed": [1, 2, 3]} if seeds > 1 else {})
    plan, work = plan_of(folder, factors=factors, decode=None), folder / "work"
    work.mkdir()
    finish_study(plan, work)
    for cell in plan.cells.values():
        values, path = cell["factors"], work / "stages" / cell["results"]["test"] / "result.json"
        score = WRONG[values["noise"], values["method"]][values.get("seed", 1) - 1]
        wrong = {
            "score": score,
            "signature": "wrong|errors-2",
            "lower_is_better": True,
            "segments": [score],
            "ci": 0.025,
        }
        mine = wrong | {"score": 1 - score, "signature": "seconds|mine", "lower_is_better": False}
        result = json.loads(path.read_text()) | {"metrics": {"wrong": wrong, "seconds": mine}}
        path.write_text(json.dumps(result))
    (work / "plan.json").write_text(json.dumps(plan.as_dict()))
    return plan, work


def test_the_report_shows_other_metrics_with_their_direction(tmp_path):
    plan, work = finished(tmp_path, seeds=3)
    study = read_study(write_results(plan, work), work)
    assert study.metrics() == ["bleu", "chrf", "ter", "seconds", "wrong"]
    tables = {table.name: table for table in score_tables(study)}
    assert tables["wrong"].title == "wrong (less is better)" and tables["seconds"].title == "seconds"
    rows = {name: {tuple(row[:2]): row[2] for row in tables[name].rows} for name in ("wrong", "seconds")}
    # the differences -0.1, -0.0999, -0.0999 are significant, and 0, 0, 0.0001 are not
    assert rows["wrong"]["0", "ce"] == "0.5125 ± 0.0125" and rows["wrong"]["0", "word"] == "0.4126 ± 0.0126 ▲"
    assert rows["wrong"]["10", "word"] == "0.6125 ± 0.0126" and rows["wrong"]["0", "teacher"] == "–"
    assert rows["seconds"]["0", "word"] == "0.5874 ± 0.0126 ▲"
    for metric, clean in (("wrong", "0.5125"), ("seconds", "0.4875")):  # 0.1 more are wrong, 0.1 fewer are right
        (drops,) = drop_tables(study, metric)
        (drop,) = (row for row in drops.rows if row[0] == "ce")
        assert drop[1:3] == [clean, "0.1000 ± 0.0000"]


def test_the_files_of_the_report_have_the_other_metrics(tmp_path):
    plan, work = finished(tmp_path, seeds=1)
    write_report(plan, work, latex=True)
    report = (work / "report.md").read_text()
    assert "wrong (less is better)" in report and "0.5000 ± 0.0250 (95 %)" in report
    assert "BLEU, chrF2, TER, seconds, wrong of the translations of test" in report
    assert r"wrong\|errors-2" in report and r"seconds\|mine" in report
    assert "0.5000" in (work / "tables" / "wrong.tex").read_text()
    rows = list(csv.DictReader((work / "cells.csv").open()))
    assert {row["metrics.wrong.score"] for row in rows} == {"", "0.5", "0.4", "0.6"}


def test_a_claim_about_another_metric_names_the_metrics_of_claims(tmp_path):
    with pytest.raises(
        KDError, match="unknown metric 'wrong'; claims know bleu, chrf, ter, and the report shows other"
    ):
        plan_of(tmp_path, factors={"method": ["ce", "word"]}, decode=None, claims=["word > ce by wrong"])
