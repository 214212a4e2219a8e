"""The parts of a report about teachers and tuning, on invented results whose gains are worked by hand."""

import json
import re
from types import SimpleNamespace

import pytest
from docs_helpers import blocks_run_by
from report_helpers import finish_stage, plan_of

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.report import tuning as of_tuning
from fairseq_kd.study.report.good_teachers import good_teachers
from fairseq_kd.study.report.rows import read_study, with_short_names
from fairseq_kd.study.report.tuning import tuning
from fairseq_kd.study.report.write import write_report
from fairseq_kd.study.show import write_results

SIX = {name: {"budget.teacher": 10 * number} for number, name in enumerate("abcdef", start=1)}
PLAIN = {1: 20.0, 2: 22.0}  # BLEU of ce by seed
GAINS = dict(zip("abcdef", (0.1, 0.4, 0.3, 0.9, 1.6, 2.5), strict=True))  # Σd² of the ranks against a to f: 2


def made(folder, result, teacher, **changes):
    """(plan, work) of a study whose students have result(factors) and whose teachers have teacher(label, number)."""
    plan, work = plan_of(folder, decode=None, **changes), folder / "work"
    for name in plan.stages:
        finish_stage(plan, work, name, 1.0)
    for cell in plan.cells.values():
        for on, stage in cell["results"].items():
            write(work, stage, result(cell["factors"], on))
    for number, one in enumerate(plan.teachers):
        label = plan.cells[one["cells"][0]]["factors"]
        for stage in one["results"].values():
            write(work, stage, teacher(label, number))
    return plan, work


def write(work, stage, content):
    path = work / "stages" / stage / "result.json"
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(json.dumps(content))


def bleu(score) -> dict:
    return {"bleu": {"score": score, "signature": "BLEU|nrefs:1"}}


def part_of(plan, work, make=lambda study, results, plan: good_teachers(study, results)):
    results = write_results(plan, work)
    return make(read_study(results, work), results, plan)


def tuning_of(plan, work):
    return part_of(plan, work, lambda study, results, plan: tuning(study, plan.spec))


def student(factors, on) -> dict:
    """The gain of a teacher's students is GAINS in the mean: 1 more with seed 1, and 1 less with seed 2."""
    gain = 0.0 if factors["method"] == "ce" else GAINS[factors["who"]] + (1 if factors["seed"] == 1 else -1)
    agreement = {"teacher": {"sha256": f"sha of {factors.get('who')}"}, "top1": 0.5 + gain / 100}
    return bleu(PLAIN[factors["seed"]] + gain) | ({} if factors["method"] == "ce" else {"agreement": agreement})


def good(factors, number) -> dict:
    """NLL falls from a to f, BLEU rises, ECE is the same for all, the entropy is in no order."""
    found = {"nll_bits": 6.0 - number, "ece": 0.1, "entropy_bits": (3, 1, 6, 2, 5, 4)[number]}
    return bleu(20.0 + number) | {"calibration": found, "checkpoint_sha256": f"sha of {factors['who']}"}


STUDY = {"factors": {"who": SIX, "method": ["ce", "word"], "seed": [1, 2]}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return made(tmp_path_factory.mktemp("good"), student, good, **STUDY)


def test_students_of_one_teacher_are_averaged_and_the_teacher_is_the_unit(finished):
    teachers, correlations = part_of(*finished).tables
    assert [line[0] for line in teachers.rows] == [f"who {name}" for name in "abcdef"]
    assert teachers.rows[3] == ["who d", "3.000", "23.00", "0.1000", "2.000", "+0.90", "2", "50.90%"]
    assert teachers.about == ""
    lines = {line[1]: line for line in correlations.rows}
    assert list(lines) == ["NLL", "BLEU", "ECE", "entropy", "agreement"]
    assert all(line[2] == "6" for line in lines.values())
    # 1 - 6 · 2 / (6 · 35); of the 720 orders 6 have Σd² of at most 2, and as many are their reverse
    assert lines["BLEU"][3].startswith("+0.94 (") and lines["NLL"][3].startswith("-0.94 (")
    assert lines["BLEU"][4] == f"{12 / 720:.4f}"
    assert lines["BLEU"][5] == f"{3 * 12 / 720:.4f}"  # Holm: the agreement has 2 / 720, the ECE has no test
    assert lines["agreement"][3].startswith("+1.00 (") and lines["agreement"][4:6] == ["0.0028", f"{8 / 720:.4f}"]
    assert lines["ECE"][3:] == ["–"] * 6


def test_the_words_say_what_is_supported_and_that_it_is_weak_evidence(finished):
    lines = part_of(*finished).lines
    (said,) = [line for line in lines if line.startswith("word: ")]
    assert said == "word: of 6 teachers, those with higher agreement had students with a larger gain."
    assert any("The unit is the teacher" in line for line in lines) and "weak evidence" in lines[-1]


def test_a_line_is_drawn_only_where_a_correlation_is_supported(finished):
    figures = {figure.name: figure for figure in part_of(*finished).figures}
    assert list(figures) == [f"good-teachers-{one}-test" for one in ("nll", "bleu", "ece", "entropy", "agreement")]

    def lines(name):  # long lines of data, without markers: the zero line, and the fit
        return len(re.findall(r'<g id="[^"]*-line2d_\d+">\s*<path d="M [^"]*" clip-path', figures[name].svg))

    assert lines("good-teachers-agreement-test") == lines("good-teachers-entropy-test") + 1


def test_too_few_teachers_to_support_anything_are_said(tmp_path):
    four = {name: SIX[name] for name in "abcd"}
    part = part_of(*made(tmp_path, student, good, factors=STUDY["factors"] | {"who": four}))
    start = "word: over 4 teachers no relation of the gain to NLL, BLEU, entropy, agreement is supported."
    assert any(line.startswith(start) for line in part.lines)
    # four teachers, and 4 tests: 4 · 2 / 24
    assert any("With 4 teachers and 4 tests no correlation can be supported" in line and "is 0.33" in line
               for line in part.lines)  # fmt: skip


def test_the_part_is_left_out_with_a_reason_below_four_teachers(tmp_path):
    three = {name: SIX[name] for name in "abc"}
    plan, work = made(tmp_path, student, good, factors=STUDY["factors"] | {"who": three})
    part = part_of(plan, work)
    assert part.absent.startswith("it needs 4 different teachers") and "the study has 3 teachers" in part.absent
    write_report(plan, work)
    for name in ("report.md", "report.html"):
        text = (work / name).read_text()
        assert "What makes a good teacher: not in this report, because it needs 4" in text
        assert "When tuning pays: not in this report, because no factor of the study varies options of kd" in text


def test_what_is_not_measured_is_said_with_the_option_that_measures_it(tmp_path):
    def unmeasured(factors, number):
        return {name: value for name, value in good(factors, number).items() if name != "calibration"}

    def plain(factors, on):
        return {"bleu": student(factors, on)["bleu"]}

    plan, work = made(tmp_path, plain, unmeasured, **STUDY)
    part = part_of(plan, work)
    lines = {line[1]: line for line in part.tables[1].rows}
    assert lines["NLL"][3] == lines["agreement"][3] == "not measured" and lines["BLEU"][3] != "not measured"
    assert part.lines[-2:] == [
        "Not measured: NLL, ECE, entropy; give evaluate: {calibration: true}.",
        "Not measured: agreement; give evaluate: {agreement: true}.",
    ]
    for teacher in plan.teachers:  # calibration of an earlier version has no entropy
        for stage in teacher["results"].values():
            write(work, stage, bleu(20) | {"calibration": {"nll_bits": 2.0, "ece": 0.1}})
    assert any("Not measured: entropy. The evaluations" in line for line in part_of(plan, work).lines)


def test_agreement_with_another_teacher_and_unfinished_students_do_not_count(tmp_path):
    plan, work = made(tmp_path, student, good, **STUDY)
    cell = plan.cells["who=a,method=word,seed=2"]
    (work / "stages" / cell["results"]["test"] / "done.json").unlink()
    for other in ("who=b,method=word,seed=1", "who=b,method=word,seed=2"):
        stage = plan.cells[other]["results"]["test"]
        write(work, stage, bleu(24) | {"agreement": {"teacher": {"sha256": "another"}, "top1": 0.9}})
    teachers, _ = part_of(plan, work).tables
    assert teachers.rows[0][5:7] == ["+1.10", "1"] and teachers.rows[1][5:] == ["+3.00", "2", "–"]
    assert "different numbers of students" in teachers.about


def test_the_same_results_give_the_same_bytes_and_all_outputs_have_both_parts(tmp_path):
    factors = STUDY["factors"] | {"alpha": [0.5, 0.9]}
    kd, found = {"kd-weight": 0.5}, []
    plan, work = made(tmp_path, student, good, factors=factors, kd=kd)
    for _ in range(2):
        write_report(plan, work, latex=True)
        files = [*work.glob("plots/*.svg"), *work.glob("tables/*.tex"), work / "report.html", work / "report.md"]
        found.append({path.name: path.read_bytes() for path in files})
    assert found[0] == found[1]
    assert found[0].keys() >= {"good-teachers.tex", "good-teachers-correlation.tex", "tuning.tex", "tuning-test.svg"}
    html, markdown = (found[0][f"report.{end}"].decode() for end in ("html", "md"))
    assert html.count("<svg") == len(list(work.glob("plots/*.svg"))) == markdown.count("](plots/")
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for title in ("What makes a good teacher", "When tuning pays"):
        assert f"<h2>{title}</h2>" in html and f"## {title}\n" in markdown


# BLEU by alpha, seed and set for a gap of 1 (a) to 5 (e); 0.5 is the default
def tuned(test, valid=None):
    def result(factors, on):
        if factors["method"] == "ce":
            return bleu(20.0)
        scores = (valid or test) if on == "valid" else test
        return bleu(20 + scores[factors["alpha"]][factors["seed"]])

    return result


def above(factors, number) -> dict:
    return bleu(21.0 + number)


KD = {"method": ["ce", "word"], "alpha": [0.5, 0.7, 0.9], "seed": [1, 2]}
TEST = {0.5: {1: 1.0, 2: 2.0}, 0.7: {1: 5.0, 2: 1.0}, 0.9: {1: 2.0, 2: 4.0}}


def test_without_a_validation_set_the_other_seeds_choose(tmp_path):
    # seed 2 alone chooses 0.9 for seed 1 (2 - 1), seed 1 alone chooses 0.7 for seed 2 (1 - 2): the mean is 0. The best
    # setting by the reported scores (0.7 and 0.9 have the mean 3) would have gained 1.5.
    part = tuning_of(*made(tmp_path, tuned(TEST), above, factors=KD, kd={"kd-weight": 0.5}))
    assert part.tables[0].rows == [["word", "alpha 0.9; alpha 0.7", "+1.00", "21.50", "+0.00", "3", "2"]]
    assert "the highest mean over the other seeds" in part.lines[0] and len(part.tables) == 1
    assert any(line.startswith("No test of the gap: a test needs 4 groups") for line in part.lines)


def test_the_validation_set_chooses_where_there_is_one(tmp_path):
    valid = {0.5: {1: 1, 2: 1}, 0.7: {1: 2, 2: 2}, 0.9: {1: 9, 2: 9}}
    changes = {"factors": KD, "kd": {"kd-weight": 0.5}, "evaluate": {"subsets": ["valid", "test"]}}
    part = tuning_of(*made(tmp_path, tuned(TEST, valid), above, **changes))
    assert part.tables[0].rows[0][1:5] == ["alpha 0.9", "+1.00", "21.50", "+1.50"]  # (2 - 1 + 4 - 2) / 2
    assert "Tuning gained +1.50 BLEU in the mean of 1 group." in part.lines


def test_the_gap_is_that_before_distillation_and_a_group_is_a_value_of_the_other_factors(tmp_path):
    def result(factors, on):
        if factors["method"] == "ce":
            return bleu(20.0)
        grown = "abcdef".index(factors["who"]) ** 2 if factors["alpha"] == 0.9 else 0
        return bleu(20 + grown)

    factors = KD | {"who": SIX, "alpha": [0.9, 0.5]}
    part = tuning_of(*made(tmp_path, result, above, factors=factors, kd={"kd-weight": 0.5}))
    groups, correlation = part.tables
    assert groups.rows[5] == ["word", "f", "alpha 0.9", "+6.00", "20.00", "+25.00", "2", "2"]
    assert groups.rows[0][2] == "alpha 0.5"  # of equal settings the default is chosen
    (line,) = correlation.rows
    assert line[:2] == ["word", "6"] and line[2].startswith("+1.00") and line[3:5] == ["0.0028", "0.0028"]
    assert "word: in 6 groups tuning gained more where the gap was larger." in part.lines


def test_models_that_teach_together_are_one_teacher_and_its_members_have_no_part_in_the_gap(monkeypatch):
    """Two seeds, each with a pair (30 and 34 BLEU) and its members; ce has 25: the gap is 32 - 25."""

    def one(score, *stages):
        return SimpleNamespace(runs=[SimpleNamespace(stages=stages)], mean=lambda metric, on: score)

    teachers = [one(30.0, "a", "b"), one(20.0, "a"), one(21.0, "b"), one(34.0, "c", "d"), one(90.0, "e")]
    study = SimpleNamespace(rows=["row"], teachers=teachers, users=[[0], [0], [0], [0], [1]])
    monkeypatch.setattr(of_tuning, "baseline_of", lambda study, row: one(25.0))
    assert of_tuning._gap(study, "test", "row") == 7.0
    monkeypatch.setattr(of_tuning, "baseline_of", lambda study, row: None)
    assert of_tuning._gap(study, "test", "row") is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kd": {"kd-weight": 0.6}}, "the factor alpha has no default value of word: add it"),
        ({"factors": KD | {"seed": [1]}}, "with one seed and without the validation set nothing can choose"),
    ],
)
def test_the_reason_why_tuning_is_left_out(tmp_path, changes, reason):
    plan, work = made(tmp_path, tuned(TEST), above, **({"factors": KD, "kd": {"kd-weight": 0.5}} | changes))
    assert tuning_of(plan, work).absent.startswith(reason)


def test_a_default_comes_from_the_criterion_and_a_label_without_options_is_one(tmp_path):
    labels = {"usual": {}, "hot": {"temperature": 2}, "written": {"temperature": 1}}
    factors = {"method": ["ce", "word"], "divergence": ["kl", "js"], "heat": labels, "seed": [1, 2]}

    def result(factors, on):
        return bleu(20 + (factors.get("heat") == "hot") + (factors.get("divergence") == "js"))

    factors["heat"] = {name: labels[name] for name in ("usual", "hot")}
    part = tuning_of(*made(tmp_path, result, above, factors=factors, kd={}))
    assert part.tables[0].rows == [["word", "divergence js, heat hot", "+1.00", "20.00", "+2.00", "4", "2"]]


def test_each_student_is_compared_with_its_own_teacher_and_other_keys_stay(tmp_path):
    factors = {"who": {name: SIX[name] for name in "ab"}, "method": ["ce", "word", "ensemble"]}
    plain = plan_of(tmp_path, factors=factors, decode=None)
    plan = plan_of(tmp_path, factors=factors, decode=None, evaluate={"agreement": True, "max-len-a": 1, "max-len-b": 5})
    assert plan.teachers == plain.teachers and plan.cells["method=ce"] == plain.cells["method=ce"]
    (trained,) = ({one["checkpoint"] for one in plan.teachers if f"who={name},method=word" in one["cells"]}
                  for name in "a")  # fmt: skip
    stage = plan.stages[plan.cells["who=a,method=word"]["results"]["test"]]
    assert {stage.command[stage.command.index("--teacher") + 1]} == trained
    assert plan.cells["who=a,method=word"]["results"] != plain.cells["who=a,method=word"]["results"]
    assert open_plan(plan.spec.path, tmp_path / "work").stages.keys() == plan.stages.keys()


@pytest.mark.parametrize(
    ("evaluate", "methods", "message"),
    [
        ({"agreement": "yes"}, ["word"], "agreement in evaluate must be true or false, found 'yes'"),
        ({"agreement": True, "teacher": "t.pt"}, ["word"], "agreement and teacher in evaluate both say"),
        ({"agreement": True}, ["ce"], "agreement in evaluate has no effect, because no student of the study has a"),
    ],
)
def test_an_agreement_that_cannot_be_measured_is_an_error(tmp_path, evaluate, methods, message):
    from study_helpers import write_spec

    sections = {"teacher": None, "decode": None} if methods == ["ce"] else {"decode": None}
    path = write_spec(tmp_path, evaluate=evaluate, factors={"method": methods}, **sections)
    with pytest.raises(KDError, match=message):
        open_plan(path, tmp_path / "work")


def test_the_command_of_the_page_plans_the_shipped_study(tmp_path, monkeypatch, capsys):
    (block,) = blocks_run_by("test_the_command_of_the_page_plans_the_shipped_study")
    (command,) = block.commands()
    monkeypatch.chdir(tmp_path)
    assert main(command.split()[1:]) == 0
    printed = capsys.readouterr().out  # 8 teachers; for each of them word and seq with 2 seeds; ce with 2 seeds
    assert "study good-teachers: 34 cells" in printed and re.search(r"^teacher +8 ", printed, re.M)


def test_existing_teachers_are_named_by_the_shortest_end_of_their_path_that_differs():
    paths = ["/x/a/best.pt", "/x/b/best.pt", "runs/last.pt", "y/a/best.pt", "best.pt"]
    teachers = [{"name": path, "checkpoint": f"/home/{path.lstrip('/')}"} for path in paths]
    teachers += [{"name": "seed 2", "checkpoint": "stages/teacher-1/checkpoint_best.pt"}, {"checkpoint": "/t.pt"}]
    names = [one.get("name") for one in with_short_names(teachers)]
    assert names == ["x/a/best.pt", "b/best.pt", "last.pt", "y/a/best.pt", "best.pt", "seed 2", None]
