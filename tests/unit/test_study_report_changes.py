"""The section of a report on learning and forgetting, for students that go on from a trained student."""

import json

import pytest
from report_helpers import finish_study
from report_helpers import plan_of as plan_of_spec
from result_helpers import references, translations

from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.changes import CLASSES
from fairseq_kd.study.report.changes import earlier_evaluation, find_changes, goes_on
from fairseq_kd.study.report.rows import read_study
from fairseq_kd.study.report.write import write_report
from fairseq_kd.study.show import write_results

GOLD = references(50)
TITLE = "Learning and forgetting"
MUTUAL = {"factors": {"method": ["ce", "mutual"], "init": ["random", "ce"], "peers": [2]}}
FACTORS = {"method": ["ce", "word", "dp"], "seed": [1, 2, 3]}


def plan_of(folder, **changes):
    """A plan whose students do not learn from decoded targets."""
    return plan_of_spec(folder, decode=None, **changes)


def add_texts(plan, work, errors) -> None:
    """Give the results of a finished study translations. errors: method -> share of wrong words."""
    for cell in plan.cells.values():
        seed, method = cell["factors"].get("seed", 1), cell["factors"]["method"]
        for stage in cell["results"].values():
            path = work / "stages" / stage / "result.json"
            texts = {"hypotheses": translations(GOLD, errors[method], seed), "references": GOLD}
            about = {"sources_sha256": "of the same sources", "checkpoint": method, "subset": "test"}
            path.write_text(json.dumps(json.loads(path.read_text()) | texts | about))


def finished(folder, errors=None, leave_out=(), **changes):
    """(plan, work) of a finished study with invented translations."""
    plan, work = plan_of(folder, **changes), folder / "work"
    work.mkdir()
    finish_study(plan, work, leave_out=leave_out)
    if errors is not None:
        kept = {name: cell for name, cell in plan.cells.items() if name not in leave_out}
        add_texts(type("Kept", (), {"cells": kept}), work, errors)
    return plan, work


@pytest.fixture(scope="module")
def dp(tmp_path_factory):
    """(plan, work, Markdown) of a study with ce, word and dp, three seeds."""
    plan, work = finished(
        tmp_path_factory.mktemp("changes"), {"ce": 0.4, "word": 0.4, "dp": 0.2}, factors=FACTORS,
        evaluate={"subsets": ["test", "valid"]},
    )  # fmt: skip
    write_report(plan, work, latex=True)
    return plan, work, (work / "report.md").read_text()


def section(markdown: str) -> str:
    return markdown.partition(f"## {TITLE}\n")[2].partition("\n## ")[0]


def test_a_student_that_goes_on_is_compared_with_the_student_of_the_same_seed(dp):
    plan, work, _ = dp
    study = read_study(write_results(plan, work), work)
    found = find_changes(plan, study, work)
    assert [(one.on, one.row.label) for one in found] == [("test", "dp"), ("valid", "dp")]
    entry = found[0].entry
    assert entry["seeds"] == [1, 2, 3] and entry["interval"] == "t"
    for run, seed in enumerate((1, 2, 3)):  # segments whose words are the same in both are kept for sure
        before, after = (translations(GOLD, errors, seed) for errors in (0.4, 0.2))
        same = sum(one == other for one, other in zip(before, after, strict=True))
        assert entry["overall"]["kept"]["counts"][run] >= same
        assert sum(entry["overall"][name]["counts"][run] for name in CLASSES) == 50
    assert entry["overall"]["gained"]["share"] > entry["overall"]["lost"]["share"]
    for cell in plan.cells.values():
        before = earlier_evaluation(plan, cell, "valid")
        if cell["factors"]["method"] == "dp":
            (ce,) = (one for one in plan.cells.values()
                     if one["factors"] == {"method": "ce", "seed": cell["factors"]["seed"]})  # fmt: skip
            assert before == ce["results"]["valid"]
        else:
            assert before is None


def test_the_report_has_a_table_and_a_plot_per_evaluation_set(dp):
    plan, work, markdown = dp
    found = section(markdown)
    assert "### Segments gained and lost on test" in found and "### Segments gained and lost on valid" in found
    assert "| method | gained | kept | lost | net | net at 2.5 points | net at 10 points | seeds |" in found
    study = read_study(write_results(plan, work), work)
    overall = find_changes(plan, study, work)[0].entry["overall"]
    share, (low, high) = overall["gained"]["share"], overall["gained"]["interval"]
    assert f"| dp | {100 * share:.1f} % ({100 * low:.1f} to {100 * high:.1f} %) | " in found
    assert "Gained and lost: the share of segments whose sentence chrF is more than 5 points above or below" in markdown
    html = (work / "report.html").read_text()
    assert f"<h2>{TITLE}</h2>" in html and html.count("<svg") == len(list((work / "plots").iterdir()))
    for name in ("test", "valid"):
        text = (work / "plots" / f"changes-{name}.svg").read_text()
        assert all(f">{word}<" in text for word in CLASSES) and f"](plots/changes-{name}.svg)" in markdown
        assert (work / "tables" / f"changes-{name}.tex").is_file()
    assert "#010203" not in html and f"{TITLE}: " not in html


def test_one_seed_has_intervals_over_segments_and_identical_translations_are_kept(tmp_path):
    plan, work = finished(tmp_path, {"ce": 0.3, "dp": 0.3}, factors={"method": ["ce", "dp"]})
    write_report(plan, work)
    row = "| dp | 0.0 % (0.0 to 7.1 %) | 100.0 % (92.9 to 100.0 %) | 0.0 % (0.0 to 7.1 %) | +0.0 % (-"
    assert row in section((work / "report.md").read_text())  # Wilson: 3.841459 / 53.841459 = 7.1 %


def test_runs_without_a_result_are_left_out_and_counted(tmp_path):
    plan, work = finished(tmp_path, {"ce": 0.4, "word": 0.4, "dp": 0.2}, ["method=dp,seed=2"], factors=FACTORS)
    write_report(plan, work)
    assert "| 2 of 3 |" in section((work / "report.md").read_text())


def test_a_study_whose_students_begin_anew_says_nothing_about_it(tmp_path):
    plan, work = finished(tmp_path, {"ce": 0.4, "word": 0.3}, factors={"method": ["ce", "word"]})
    write_report(plan, work)
    assert not goes_on(plan) and TITLE not in (work / "report.html").read_text()


def test_a_study_without_the_student_before_says_what_is_missing(tmp_path):
    plan, work = finished(tmp_path, {"dp": 0.3, "word": 0.3}, factors={"method": ["dp", "word"]})
    write_report(plan, work)
    html = (work / "report.html").read_text()
    assert goes_on(plan) and f"{TITLE}: add the method ce" in html and f"<h2>{TITLE}" not in html


def test_results_of_old_versions_without_texts_are_left_out(tmp_path):
    plan, work = finished(tmp_path, factors={"method": ["ce", "dp"]})  # its results have no hash of the sources
    write_report(plan, work)
    assert f"<h2>{TITLE}" not in (work / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "with_earlier"),
    [
        ({"factors": {"method": ["ce", "word"], "init": ["random", "ce"]}}, 2),  # ce and word that go on
        (MUTUAL | {"teacher": None}, 2),  # from peer 1
        ({"factors": {"method": ["ce", "dp"], "noise": [0, 10]}}, 2),
        ({"factors": {"method": ["ce", "semi-on-policy"], "init": ["random", "ce"], "refresh": [10]}}, 2),
        ({"factors": {"method": ["word"], "init": ["random", "first"]}}, 0),  # from the teacher
    ],
)
def test_which_cells_go_on_from_a_student(tmp_path, changes, with_earlier):
    """The student before has the same evaluation, and the weights with which the training begins."""
    plan = plan_of(tmp_path, **changes)
    earlier = {name: earlier_evaluation(plan, cell, "test") for name, cell in plan.cells.items()}
    assert sum(stage is not None for stage in earlier.values()) == with_earlier
    for name, stage in earlier.items():
        if stage is not None:
            (before,) = (cell for cell in plan.cells.values() if cell["results"]["test"] == stage)
            assert before["factors"]["method"] == "ce" and before["factors"].get("init", "random") == "random"
            assert before["factors"].get("noise") == plan.cells[name]["factors"].get("noise")


def test_the_student_of_each_part_is_compared_with_the_local_model_of_its_part(tmp_path):
    factors = {"part": [1, 2, 3], "method": ["ce", "mutual"], "init": ["random", "ce"], "peers": ["parts"]}
    parts = {"partition": {"parts": 3, "by": "length"}, "exclude": [{"method": "mutual", "init": "random"}]}
    plan = plan_of(tmp_path, factors=factors, teacher=None, **parts)
    compared = []
    for cell in plan.cells.values():
        if cell["factors"]["method"] == "mutual":
            stage = earlier_evaluation(plan, cell, "test")
            (before,) = (one for one in plan.cells.values() if one["results"]["test"] == stage)
            assert before["factors"]["part"] == cell["factors"]["part"]
            assert (before["factors"]["method"], before["factors"]["init"]) == ("ce", "random")
            compared.append(before["factors"]["part"])
    assert sorted(compared) == [1, 2, 3]


def test_segments_of_each_part_are_counted_where_the_data_have_parts(tmp_path):
    factors = {"part": [1], "method": ["ce"], "init": ["random", "ce"]}
    plan, work = finished(tmp_path, factors=factors, partition={"parts": 2, "by": "length"}, teacher=None)
    for cell in plan.cells.values():
        errors = {"ce": 0.4 if cell["factors"]["init"] == "random" else 0.2}
        add_texts(type("One", (), {"cells": {"one": cell}}), work, errors)
    (partition,) = (name for name, stage in plan.stages.items() if stage.kind == "partition")
    folder = work / "stages" / partition / "parts" / "parts"
    folder.mkdir(parents=True)
    (folder / "test.txt").write_text("1\n" * 20 + "2\n" * 30)
    write_report(plan, work)
    markdown = (work / "report.md").read_text()
    found = section(markdown).partition("### Segments gained and lost on test, by part of the test data")[2]
    study = read_study(write_results(plan, work), work)
    (changed,) = find_changes(plan, study, work)
    assert [sum(part[name]["counts"][0] for name in CLASSES) for part in changed.entry["parts"]] == [20, 30]
    for part in changed.entry["parts"]:
        assert f"| {part['part']} | {100 * part['gained']['share']:.1f} % (" in found


def test_a_compact_student_is_compared_with_a_compact_one(tmp_path):
    adaptive = {"arch": "kd_student_adaptive"}
    plan = plan_of(tmp_path, factors={"method": ["ce", "dp"], "compact": [False, True]}, student=adaptive)
    for cell in plan.cells.values():
        stage = earlier_evaluation(plan, cell, "test")
        if cell["factors"]["method"] == "dp":
            (before,) = (one for one in plan.cells.values() if one["results"]["test"] == stage)
            assert before["factors"] == cell["factors"] | {"method": "ce"}


def test_a_spec_cannot_name_an_earlier_result(tmp_path):
    with pytest.raises(KDError, match="compare-to in evaluate is set by the study; leave it out: the report compares"):
        plan_of(tmp_path, evaluate={"compare-to": "before.json"})
