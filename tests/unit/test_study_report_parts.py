"""The parts of a report for readers from outside: box, verdicts, drops, colours, LaTeX and CSV."""

import csv
import json
import re
import shutil
import subprocess
from html import unescape
from types import SimpleNamespace

import pytest
from conftest import ROOT
from docs_helpers import blocks_run_by
from report_helpers import finish_study, plan_of, write_comparison
from study_helpers import spec_on, write_spec

from fairseq_kd.artifacts.records import write_record
from fairseq_kd.cli.main import main
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.claims import read_claim_results
from fairseq_kd.study.factors import CHOICES
from fairseq_kd.study.report.draw import COLOURS
from fairseq_kd.study.report.drops import drop_tables
from fairseq_kd.study.report.latex import escape_latex, latex_table, tex_files
from fairseq_kd.study.report.limits import find_limits, truncated_teachers
from fairseq_kd.study.report.outcome import best_row, short_table
from fairseq_kd.study.report.rows import Row, Run, Study
from fairseq_kd.study.report.styles import VALUES, styles_of
from fairseq_kd.study.report.tables import Table
from fairseq_kd.study.report.tested import describe_study, question_of
from fairseq_kd.study.report.verdicts import count_verdicts
from fairseq_kd.study.report.words import FACTORS, about_factor, about_value
from fairseq_kd.study.report.write import write_report
from fairseq_kd.study.show import write_results
from fairseq_kd.study.spec import load_spec

FACTORS_OF_STUDY = {"noise": [0, 10], "method": ["ce", "word", "seq"], "seed": [1, 2, 3]}
QUESTION = "# Which kind of student survives noise best?\n#\n# Second line.\n\n# Not a part of it.\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(plan, work) of a finished study with LaTeX tables, whose data-bin says its sizes."""
    folder = tmp_path_factory.mktemp("parts")
    claims = ["seq > word at noise 0 by bleu", "ce > word at noise 10 by bleu", "seq > word at noise 10 by ter"]
    plan, work = plan_of(folder, factors=FACTORS_OF_STUDY, claims=claims, question=None), folder / "work"
    plan.spec.path.write_text(QUESTION + plan.spec.path.read_text())
    work.mkdir()
    finish_study(plan, work)
    for claim, p, difference in zip(plan.claims, (0.001, 0.002, 0.3), (0.71, -0.5, -0.2), strict=True):
        write_comparison(work, claim["compare"], seeds=3, p=p, difference=difference)
    write_manifest(plan, work, "de", {"train": 29000, "valid": 1014, "test": 1000})
    (work / "plan.json").write_text(json.dumps(plan.as_dict()))
    write_report(plan, work, latex=True)
    return plan, work


def write_manifest(plan, work, source, sizes):
    (stage,) = (stage for stage in plan.stages.values() if stage.kind == "prepare")
    folder = work / "stages" / stage.name / "data-bin"
    folder.mkdir()
    subsets = {name: {"pairs": size} for name, size in sizes.items()}
    (folder / "manifest.json").write_text(json.dumps({"source_lang": source, "target_lang": "en", "subsets": subsets}))


def study_of(sets=("test",), **rows) -> Study:
    """One row per keyword: METHOD_NOISE -> {set: scores per seed} or scores on test."""
    made, factors = [], {"method": [], "noise": []}
    for name, given in rows.items():
        method, _, level = name.partition("_")
        values = {"method": method, "noise": int(level or 0)}
        scores = given if isinstance(given, dict) else {"test": given}
        runs = [
            Run(
                seed,
                {on: {"bleu": {"score": scores[on][seed]}, "ter": {"score": scores[on][seed]}} for on in sets},
                [],
                1,
            )
            for seed in range(len(scores[sets[0]]))
        ]
        made.append(Row(values, runs))
        for factor, value in values.items():
            factors[factor] += [] if value in factors[factor] else [value]
    return Study("mine", list(sets), factors, made, [], [])


def test_the_first_lines_say_what_was_compared_on_which_data_and_what_came_out(finished):
    _, work = finished
    top = (work / "report.md").read_text().partition("## What was tested")[0]
    assert "Which kind of student survives noise best? Second line." in top and "Not a part" not in top
    assert "Compared: 18 students and 2 teachers (noise 0, 10; method ce, word, seq)" in top
    assert "the embedded corpus (29,000 training pairs); by BLEU on test (1,000 sentences)." in top
    assert re.search(
        r"The best of 6 kinds of student on test is seq, noise 0, with \d\d\.\d\d BLEU; the best teacher", top
    )
    assert "Of 3 claims: 1 supported, 1 refuted, 1 undecided." in top and "Read with care" not in top
    html = (work / "report.html").read_text()
    assert html.index("Which kind of student") < html.index("Of 3 claims") < html.index("<h2>What was tested")


def test_the_box_names_data_models_factors_and_seeds_in_words(finished):
    _, work = finished
    box = (work / "report.md").read_text().partition("## What was tested")[2].partition("## What came out")[0]
    assert "train 29,000, valid 1,014, test 1,000 sentence pairs" in box
    assert "- **Teacher**: 2 teachers: 515,072 parameters, kd\\_student, 1 + 1 layers, width 16, 30 updates" in box
    assert "- **Students**: 224,768 parameters, kd\\_student, 1 + 1 layers, width 16, 30 updates" in box
    changed = "10 % of the source words of the training set are deleted, substituted or swapped, for the teacher too"
    assert f"  - 10: {changed}\n" in box and "  - seq: sequence level: learns from the teacher's translations" in box
    assert "- **Seeds**: 3 per student (1, 2, 3); one per teacher." in box
    assert "No limit was found" in box


def test_the_question_is_the_key_or_else_the_comment_at_the_beginning(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(QUESTION + "factors: {}\n")
    assert question_of(SimpleNamespace(path=path)) == "Which kind of student survives noise best? Second line."
    assert question_of(SimpleNamespace(path=path, question=" Is it\n so? ")) == "Is it so?"
    path.write_text("factors: {}  # no question\n# nor here\n")
    assert question_of(SimpleNamespace(path=path)).startswith("The question of this study is not stated")


def test_every_value_that_the_study_knows_has_words_and_other_names_get_generic_ones(tmp_path):
    for name, values in CHOICES.items():
        assert set(values) <= set(FACTORS[name].values), name
    factors = {"method": ["ce", "seq"], "decode.beam": [5], "decode.lenpen": [1], "lr": [0.1], "relu-dropout": [0.1]}
    factors |= {"width": {"small": {"encoder-embed-dim": 16}, "usual": {}}}
    spec = load_spec(plan_of(tmp_path, factors=factors).spec.path)
    assert about_factor(spec, "decode.lenpen") == "the option --lenpen of fairseq-kd decode"
    assert about_factor(spec, "relu-dropout") == "the training option --relu-dropout of the student"
    assert about_value(spec, "width", "small") == "encoder-embed-dim 16"
    assert about_value(spec, "width", "usual") == "the default of these options"
    assert about_value(spec, "method", "new") == "method new"


@pytest.mark.parametrize(
    ("noise", "factors", "words"),
    [
        ({"swap": 0}, {}, "10 % of the source words of the training set are deleted or substituted, for the teacher "
         "too"),
        ({"level": "char"}, {"teacher-noise": ["clean"]}, "10 % of the source characters of the training set are "
         "deleted, substituted or swapped, but not for the teacher"),
        ({"side": "both", "delete": 0, "swap": 0}, {"teacher-noise": ["same", "clean"]},
         "10 % of the words of both sides of the training set are substituted"),
        ({}, {"who": {"trained": {}, "mine": {"teacher.checkpoint": "mine.pt"}}}, "10 % of the source words of the "
         "training set are deleted, substituted or swapped, but not for teachers that existed before the study"),
    ],
)  # fmt: skip
def test_noise_in_words(tmp_path, noise, factors, words):
    spec = load_spec(write_spec(tmp_path, noise=noise, factors={"method": ["seq"], "noise": [10]} | factors))
    assert about_value(spec, "noise", 10) == words


def test_an_existing_teacher_has_no_noise_of_the_study(data_bin, teacher, tmp_path):
    spec = load_spec(spec_on(data_bin, teacher, tmp_path, factors={"method": ["word"], "noise": [10]}))
    assert about_value(spec, "noise", 10).endswith("swapped, but not for the teacher, which existed before the study")


def test_sizes_of_a_data_bin_without_a_manifest_are_counted(tmp_path, data_bin):
    plan = plan_of(tmp_path)
    (stage,) = (stage for stage in plan.stages.values() if stage.kind == "prepare")
    folder = tmp_path / "stages" / stage.name / "data-bin"
    shutil.copytree(data_bin, folder, ignore=shutil.ignore_patterns("manifest.json", "raw", "subword"))
    pair = {path.name.split(".")[1] for path in folder.glob("train.*.idx")}.pop().split("-")
    plan.spec.sections["data"] |= {"name": "text", "source-lang": pair[0], "target-lang": pair[1]}
    known = json.loads((data_bin / "manifest.json").read_text())["subsets"]
    sizes = ", ".join(f"{name} {known[name]['pairs']:,}" for name in ("train", "valid", "test"))
    study = study_with_stages(plan, study_of(ce=[20.0]))
    expected = f"invented language qaa to invented language qab, own text: {sizes} sentence pairs"
    assert describe_study(plan, study, tmp_path).entries[0].lines == [expected]
    for name in ("name", "source-lang", "target-lang"):  # then the names of the files say the languages
        del plan.spec.sections["data"][name]
    assert describe_study(plan, study, tmp_path).entries[0].lines == [expected.replace("own text", "data-bin")]


def test_data_and_a_teacher_that_existed_before_the_study(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, factors={"method": ["seq"]})
    found = tmp_path / "elsewhere"
    found.mkdir()
    subsets = {name: {"pairs": size} for name, size in (("train", 7000), ("valid", 70), ("test", 700))}
    (found / "manifest.json").write_text(json.dumps({"source_lang": "fr", "target_lang": "en", "subsets": subsets}))
    for stage in plan.stages.values():
        if stage.kind == "evaluate":
            stage.command[2] = "@existing/data-bin-0a"
    monkeypatch.setattr(plan, "as_dict", lambda: {"existing": {"data-bin-0a": {"path": str(found)}}})
    plan.spec.sections["data"] = {"data-bin": str(found), "source-lang": "fr", "target-lang": "en"}
    scores = {"bleu": {"score": 30.0}}
    teacher = Row({"method": "teacher"}, [Run(None, {"test": scores | {"parameters": 5000, "updates": 90}}, [], None)])
    student = Row({"method": "seq"}, [Run(1, {"test": scores}, [], None)])
    study = Study("s", ["test"], {"method": ["seq"]}, [student], [teacher], [[0]])
    entries = {entry.term: entry.lines for entry in describe_study(plan, study, tmp_path).entries}
    sizes = "train 7,000, valid 70, test 700 sentence pairs"
    assert entries["Data"] == [f"French (fr) to English (en), elsewhere: {sizes}"]
    assert entries["Teacher"] == ["5,000 parameters, 90 updates"]


def study_with_stages(plan, study):
    cell = next(iter(plan.cells))
    rows = [
        Row(row.factors, [Run(run.seed, run.results, plan.stages_of(cell), 1) for run in row.runs])
        for row in study.rows
    ]
    return Study(study.name, study.sets, {"method": ["ce"]}, rows, [], [])


def test_the_limits_of_a_study():
    def heads(study):
        return [line.partition(":")[0] for line in find_limits(study)]

    assert heads(study_of(ce=[20.0, 21.0, 22.0], seq=[5.0, 5.0, 5.0])) == []
    assert heads(study_of(ce=[20.0], seq=[30.0])) == ["One seed"]
    assert heads(study_of(ce=[20.0, 21.0], seq=[4.9, 4.9])) == ["2 seeds", "BLEU near 0 (below 5) on test"]
    repeating = study_of(ce=[20.0, 21.0, 22.0], seq=[20.0, 21.0, 22.0])
    for run, rate in zip(repeating.rows[1].runs, (0.1, 0.2, 0.31), strict=True):  # mean 0.203
        run.results["test"] |= {"behaviour": {"repetition": rate}, "sentences": 199}
    assert heads(repeating) == ["Repetition above 20 % on test", "Fewer than 200 sentences"]
    assert "seq, noise 0." in find_limits(repeating)[0]


def test_caches_that_leave_out_most_of_the_teacher_are_a_limit(tmp_path):
    """Of four caches, two have too little mass outside; the two others are of one temperature."""
    plan = plan_of(tmp_path, factors={"method": ["word", "seq"], "temperature": [1, 4], "noise": [0, 10]}, claims=[])
    caches = [stage for stage in plan.stages.values() if stage.kind == "cache"]
    assert truncated_teachers(plan, tmp_path) == [] and len(caches) == 4
    masses = {1.0: [0.1, 0.5], 4.0: [0.87, 0.61]}
    for stage in caches:
        temperature = float(stage.command[stage.command.index("--temperature") + 1])
        folder = tmp_path / "stages" / stage.name / "cache"
        folder.mkdir(parents=True)
        manifest = {"k": 16, "temperatures": [temperature], "mean_tail_mass": [masses[temperature].pop()]}
        write_record(folder / "manifest.json", manifest)
    (line,) = truncated_teachers(plan, tmp_path)
    assert line.startswith("Truncated teacher at temperature 4: 61 % to 87 % of its mass is outside of the 16 entries")


def test_what_came_out_in_short():
    study = study_of(ce_0=[20.0, 22.0], seq_0=[23.0, 25.0], ce_30=[10.0, 12.0], seq_30=[9.0, 9.0])
    table = short_table(study)
    assert (table.head, table.rows) == (
        ["at", "ce", "seq"],
        [["noise 0", "21.00", "24.00"], ["noise 30", "11.00", "9.00"]],
    )
    assert best_row(study) == "The best of 4 kinds of student on test is seq, noise 0, with 24.00 BLEU."
    assert best_row(study_of(ce=[0.1], seq=[0.2])) == "No student has more than 0.20 BLEU on test."
    many = study_of(**{f"ce_{level}": [level / 1.0] for level in range(10, 20)})
    assert [row[1] for row in short_table(many).rows] == [f"{level}.00" for level in range(19, 11, -1)]


def test_drops_worked_by_hand_paired_over_seeds():
    study = study_of(ce_0=[20.0, 30.0], ce_10=[19.0, 27.0], seq_0=[40.0, 40.0], seq_10=[44.0, 44.0])
    (table,) = drop_tables(study, "bleu")
    assert table.head == ["method", "no noise", "drop at 10 %", "relative at 10 %"]
    # ce: drops 1 and 3, mean 2, sd sqrt 2 = 1.41, 2 / 25 = 8 %; seq gains 4 of 40
    assert table.rows == [["ce", "25.00", "2.00 ± 1.41", "8.0%"], ["seq", "40.00", "-4.00 ± 0.00", "-10.0%"]]
    (ter,) = drop_tables(study, "ter")  # less is better, so an increase is a drop
    assert ter.rows[0][2:] == ["-2.00 ± 1.41", "-8.0%"] and ter.rows[1][2:] == ["4.00 ± 0.00", "10.0%"]


def test_drops_by_noise_in_the_test_set_and_by_measured_robustness():
    study = study_of(("test", "test@30"), ce={"test": [20.0], "test@30": [15.0]})
    (table,) = drop_tables(study, "bleu")
    assert table.rows == [["ce", "0", "20.00", "5.00", "25.0%"]] and "source of test" in table.title
    measured = study_of(ce=[20.0])
    levels = [{"percent": percent, "bleu": {"score": score}} for percent, score in ((0, 20.0), (10, 18.0))]
    measured.rows[0].runs[0].results["test"]["robustness"] = {"levels": levels}
    assert drop_tables(measured, "bleu")[0].rows == [["ce", "0", "20.00", "2.00", "10.0%"]]
    assert drop_tables(study_of(ce=[20.0], seq=[21.0]), "bleu") == []


def test_verdicts_are_sentences_below_their_claims(finished):
    plan, work = finished
    found = read_claim_results(write_results(plan, work))
    assert [verdict.verdict for verdict in found] == ["supported", "refuted", "undecided"]
    html, markdown = ((work / f"report.{kind}").read_text() for kind in ("html", "md"))
    for verdict in found:
        assert verdict.sentence.endswith(verdict.finding)
        assert f"- **{verdict.verdict}**: {verdict.text}: {verdict.finding}" in markdown.replace("\\", "")
        assert f"<b>{verdict.text}</b>: {verdict.finding}" in unescape(html)
    assert found[0].finding.startswith("the difference between seq and word is +0.71 BLEU (p 0.0030 after Holm's")
    assert count_verdicts(found) == "Of 3 claims: 1 supported, 1 refuted, 1 undecided."
    assert count_verdicts(found[:1]) == "Of 1 claim: 1 supported." and count_verdicts([]) == ""


def test_a_method_has_one_colour_and_values_have_other_colours():
    study = study_of(ce_0=[1.0], seq_0=[1.0], ce_10=[1.0], seq_10=[1.0])
    rows = [row.factors for row in study.rows]
    looks = styles_of(study, rows)
    ce, seq = looks[0].colour, looks[1].colour
    assert [look.colour for look in looks] == [ce, seq, ce, seq] and ce != seq
    assert len({(look.colour, look.variant) for look in looks}) == 4  # the values of noise differ in their lines
    assert [look.colour for look in styles_of(study, rows[1:3])] == [seq, ce]  # also in a plot of other rows
    assert styles_of(study, [rows[1]])[0].colour == seq
    values = styles_of(study, [rows[0], rows[2]])  # one method: the colours are those of values
    assert {look.colour for look in values} <= set(VALUES) and len({look.colour for look in values}) == 2
    assert not set(VALUES) & set(COLOURS)


def test_other_metrics_are_folded_and_each_note_is_written_once(finished):
    _, work = finished
    html, markdown = ((work / f"report.{kind}").read_text() for kind in ("html", "md"))
    folded = html[html.index('<details class="scores">') : html.index("</details>", html.index('class="scores"'))]
    assert "<h3>chrF2</h3>" in folded and "<h3>TER (less is better)</h3>" in folded and "<h3>BLEU" not in folded
    assert html.count("<h3>chrF2</h3>") == 1 and "Drop of chrF2 on test" in folded
    for page in (html, markdown):
        for note in ("Scores are the mean", "paired t-test over seeds, p below", "Drop: how much worse"):
            assert page.count(note) == 1, note
    assert markdown.count("<details>") == markdown.count("</details>") == 3


def test_cells_csv_has_every_number_unrounded(finished):
    plan, work = finished
    with (work / "cells.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 18 + 2
    (line,) = (one for one in lines if (one["method"], one["noise"], one["seed"]) == ("seq", "10", "2"))
    stage = plan.cells["noise=10,method=seq,seed=2"]["results"]["test"]
    result = json.loads((work / "stages" / stage / "result.json").read_text())
    assert float(line["bleu.score"]) == result["bleu"]["score"] and float(line["ter.ci"]) == result["ter"]["ci"]
    assert float(line["behaviour.repetition"]) == 0.004 and line["parameters"] == str(result["parameters"])
    assert line["model"] == "student" and {one["model"] for one in lines} == {"student", "teacher"}


def test_latex_prints_special_characters_and_its_tables_are_complete(finished):
    assert escape_latex("a_b & 5% #1 $x$ {y} ~^\\ <|> --out ± ▲") == (
        r"a\_b \& 5\% \#1 \$x\$ \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{} "
        r"\textless{}\textbar{}\textgreater{} -{}-out $\pm$ $\uparrow$"
    )
    _, work = finished
    files = {path.name: path.read_text() for path in (work / "tables").iterdir()}
    assert files.keys() >= {"claims.tex", "bleu.tex", "chrf.tex", "ter.tex", "measures-test.tex"}
    assert "drop-bleu-training-noise-test.tex" in files
    for name, text in files.items():
        assert re.findall(r"\\(begin|end)\{(\w+)\}", text) == [
            ("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")], name  # fmt: skip
        (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
        lines = [line for line in text.splitlines() if line.endswith("\\\\")]
        assert len(lines) > 1 and {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns)}, name
        assert "±" not in text and "▲" not in text
    same = Table("größe", ["a"], [["[1]"], ["*"]], 1)
    assert list(tex_files([same, same], "s")) == ["gr-e.tex", "gr-e-2.tex"]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(finished, tmp_path):
    _, work = finished
    odd = Table("a_b", ["x & y", "%"], [["[1] {~^\\}", "$1 ± 2 ▲ ▼ –"], ["*", '"<|>" #--x']], 1, ["50 % of it"], "odd")
    tables = [path.read_text() for path in sorted((work / "tables").iterdir())] + [latex_table(odd, "s_1", "odd")]
    text = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + "".join(tables) + "\\end{document}\n"
    (tmp_path / "all.tex").write_text(text)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-1500:]


def test_latex_tables_are_written_on_request_and_never_left_from_an_earlier_report(tmp_path, capsys):
    plan, work = plan_of(tmp_path), tmp_path / "work"
    work.mkdir()
    (work / "plan.json").write_text(json.dumps(plan.as_dict()))
    words = [str(plan.spec.path), "--out", str(work)]
    assert main(["study", "report", *words]) == 0 and not (work / "tables").exists()
    assert f"{work}/cells.csv and {work}/plots/" in capsys.readouterr().out
    assert main(["study", "report", *words, "--latex"]) == 0
    assert f"{work}/cells.csv, {work}/tables/ and {work}/plots/" in capsys.readouterr().out
    assert main(["study", "plan", *words, "--latex"]) == 2
    assert "--latex has no effect with study plan, only with study report" in capsys.readouterr().err
    (work / "tables" / "old.tex").write_text("of an earlier report")
    finish_study(plan, work, rich=False)
    write_report(plan, work)
    assert [path.name for path in (work / "tables").iterdir()] == ["bleu.tex"]
    assert "There are no results yet" not in (work / "report.md").read_text()


def test_the_command_of_the_page_on_reports(tmp_path, monkeypatch, capsys):
    (block,) = blocks_run_by("test_the_command_of_the_page_on_reports")
    (command,) = block.commands()
    monkeypatch.chdir(tmp_path)
    work = tmp_path / "runs" / "noise"
    work.mkdir(parents=True)
    (work / "plan.json").write_text(json.dumps(open_plan("noise", work).as_dict()))
    assert main(command.split()[1:]) == 0
    assert "No student is evaluated yet. Of 4 claims: 4 not tested yet." in capsys.readouterr().out
    listed = re.findall(r"^\| `([\w.*/]+)` \|", (ROOT / "docs" / "report.md").read_text(), re.M)
    assert {name for name in listed if list(work.glob(name))} == set(listed) - {"plots/*.svg"}  # nothing is drawn yet
    assert "There are no results yet." in (work / "report.md").read_text()
