"""benchmarks/gpu.py, which only a machine with a GPU can run as it is meant, at tiny sizes on the CPU."""

import json

from conftest import ROOT
from process_helpers import run_python

COMMAND = "python benchmarks/gpu.py --dry-run --cpu"


def test_every_section_runs_on_the_cpu_and_is_written(tmp_path):
    assert COMMAND in (ROOT / "docs" / "benchmarks.md").read_text()
    words = [ROOT / "benchmarks" / "gpu.py", *COMMAND.split()[2:], "--out", tmp_path / "out"]
    result = run_python(*words, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]

    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(found["sections"]) == ["parity", "figures", "decoding", "profile", "loss"]
    assert not any(section["tracebacks"] for section in found["sections"].values())
    parity = found["sections"]["parity"]["tables"]
    results = [row["result"] for name in parity if name != "teacher" for row in parity[name]]
    assert len(results) > 50 and set(results) == {"ok"}
    # by definition: the ratio of a variant to itself, and a training that repeats one on the same device
    updates = found["sections"]["figures"]["tables"]["updates"]
    assert [row["of stock"] for row in updates if row["variant"] == "stock cross-entropy"] == [1.0]
    assert {row["error"] for row in parity["losses of trainings"]} == {0.0}
    # both implementations, and both sources of one teacher, see the same first update
    losses = {row["training"]: row["last loss"] for row in parity["losses of trainings"]}
    assert abs(losses["kd_word, cached"] - losses["kd_word, cached, reference"]) <= 0.001
    assert abs(losses["kd_word, no teacher"] - losses["label_smoothed_cross_entropy"]) <= 0.001
    text = (tmp_path / "out" / "results.md").read_text()
    assert "| V | student | tokens | variant | ms |" in text and f"- commit: {found['about']['commit']}" in text


def test_a_row_out_of_tolerance_and_a_section_that_raises_are_kept_and_fail(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from gpu_report import FAILED, Report

    def raises(bench, section):
        section.row("a table", value=0.25, result=FAILED)
        raise ValueError("the reason")

    report = Report(tmp_path, {"commit": "abc"}, seconds=60)
    report.run("first", raises, None)
    report.run("second", lambda bench, section: section.attempt("other", {"name": "x"}, lambda: {"result": "ok"}), None)
    sections = json.loads((tmp_path / "results.json").read_text())["sections"]
    assert sections["first"]["tables"] == {"a table": [{"value": 0.25, "result": FAILED}]}
    assert "ValueError: the reason" in sections["first"]["tracebacks"]["first"]
    assert sections["second"]["tables"] == {"other": [{"name": "x", "result": "ok"}]}
    assert len(report.failures()) == 2


def test_no_row_is_begun_when_the_time_is_up(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from gpu_report import Report

    report = Report(tmp_path, {}, seconds=-1)
    report.run("first", lambda bench, section: section.attempt("table", {"name": "x"}, lambda: 1 / 0), None)
    assert report.sections["first"].tables == {"table": [{"name": "x", "result": "skipped: no time left"}]}
    assert report.failures() == []
