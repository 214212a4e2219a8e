import json
import re
import subprocess
import sys
from shutil import which

import pytest
from report_helpers import finish_stage, finish_study, plan_of, write_comparison, write_result

from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.report.draw import COLOURS
from fairseq_kd.study.report.markdown import escape
from fairseq_kd.study.report.measured import validation_curve
from fairseq_kd.study.report.rows import Row, Run, Study, labels
from fairseq_kd.study.report.styles import VALUES
from fairseq_kd.study.report.tables import find_marks
from fairseq_kd.study.report.write import write_report

SEEDS = {"method": ["ce", "word", "seq"], "seed": [1, 2, 3]}
WIDTHS = {width: {"encoder-embed-dim": width, "decoder-embed-dim": width} for width in (32, 64)}


def reported(folder, rich=True, leave_out=(), **changes):
    """(plan, work, HTML, Markdown) of a study with invented results."""
    plan, work = plan_of(folder, **changes), folder / "work"
    work.mkdir()
    finish_study(plan, work, rich, leave_out)
    write_report(plan, work)
    return plan, work, (work / "report.html").read_text(), (work / "report.md").read_text()


def plots_of(work) -> set:
    return {path.name for path in (work / "plots").iterdir()}


def study_of(**methods) -> Study:
    """One factor, one set; method -> scores, one a seed."""
    rows = [
        Row({"method": method}, [Run(s, {"test": {"bleu": {"score": v}}}, [], None) for s, v in enumerate(scores)])
        for method, scores in methods.items()
    ]
    return Study("mine", ["test"], {"method": list(methods)}, rows, [], [])


def test_a_study_with_all_measures_has_every_plot_and_leaves_nothing_out(tmp_path):
    claims = ["seq > word at noise 0 by bleu", "word > ce at noise 10 by bleu"]
    changes = {"factors": SEEDS | {"noise": [0, 10]}, "evaluate": {"noise": [0, 10]}, "claims": claims}
    plan, work, html, markdown = reported(tmp_path, **changes)
    assert plots_of(work) >= {"bleu-test-by-noise.svg", "bleu-test-10-by-noise.svg", "bleu-test-by-test-noise-1.svg"}
    assert plots_of(work) >= {"reliability-test-1.svg", "bleu-test-by-latency.svg", "training-1.svg"}
    assert "Omitted" not in html + markdown and "partial" not in markdown
    assert html.count("<svg") == len(plots_of(work)) == markdown.count("](plots/")
    for page in (html, markdown):
        for word in ("chrF2", "TER", "ECE", "BLEU|nrefs:1", "paired t-test over 3 seeds", "2.13.0"):
            assert word in page.replace("\\", ""), word
        for stage in plan.stages:
            assert stage in page
    hashes = [json.loads(path.read_text())["fingerprint"] for path in work.glob("stages/*/done.json")]
    assert len(hashes) == len(plan.stages) and all(value in html and value in markdown for value in hashes)
    assert html.count("seq &gt; word at noise 0 by bleu") == 2  # the verdict, and the row of the table


def test_bleu_alone_is_enough_and_the_report_says_which_option_gives_the_other_plots(tmp_path):
    _, work, html, markdown = reported(tmp_path, rich=False, factors=SEEDS)
    assert plots_of(work) == {"bleu-test-by-method.svg", "training-1.svg"}
    for option in ("noise: [0, 10]", "calibration: true", "latency: 100"):
        assert option in html
    assert "chrF2" not in html and "Measures" not in html and "Omitted, because there are no data" in markdown


def test_the_options_that_the_report_names_are_accepted_in_a_spec(tmp_path):
    options = {"calibration": True, "latency": 100, "noise-levels": [0, 10], "max-len-b": 5}
    plan = plan_of(tmp_path, evaluate=options)
    plan = open_plan(plan.spec.path, tmp_path / "work")
    (command, *_) = [stage.command for stage in plan.stages.values() if stage.kind == "evaluate"]
    assert " ".join(command).endswith(
        "--calibration --latency 100 --noise-levels 0 10 --max-len-b 5 --out @out/result.json"
    )


def test_factors_that_change_the_size_are_drawn_over_parameters_and_words_as_dots(tmp_path):
    decoding = {"beam": {"strategy": "beam"}, "greedy": {"strategy": "greedy"}}
    _, work, _, _ = reported(tmp_path, factors={"width": WIDTHS, "method": ["ce", "seq"], "decoding": decoding})
    assert plots_of(work) >= {"bleu-test-by-parameters.svg", "bleu-test-by-decoding.svg"}
    assert "bleu-test-by-width.svg" not in plots_of(work)
    sizes = (work / "plots" / "bleu-test-by-parameters.svg").read_text()
    assert ">0.104 M<" in sizes and ">0.225 M<" in sizes and ">teacher<" in sizes
    assert ">greedy<" in (work / "plots" / "bleu-test-by-decoding.svg").read_text()


def test_the_same_results_give_the_same_bytes(tmp_path):
    plan, work, _, _ = reported(tmp_path, factors=SEEDS)
    files = ("report.*", "cells.csv", "plots/*")
    before = {path: path.read_bytes() for pattern in files for path in work.glob(pattern)}
    assert {"report.html", "report.md", "cells.csv"} < {path.name for path in before}
    (work / "plots" / "old.svg").write_text("of an earlier report")
    code = "import sys; from fairseq_kd.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ["study", "report", str(plan.spec.path), "--out", str(work)]
    (work / "plan.json").write_text(json.dumps(plan.as_dict()))
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "| ce |" in result.stdout and f"wrote {work}/report.html" in result.stdout
    assert {path: path.read_bytes() for pattern in files for path in work.glob(pattern)} == before


def test_the_page_needs_nothing_else_and_its_ids_are_unique(tmp_path):
    _, _, html, _ = reported(tmp_path, factors=SEEDS)
    assert not re.search(r"<script|<link (?!rel=\"icon\" href=\"data:)|@import|src=|url\((?!#)", html)
    assert set(re.findall(r'https?://[^"\s<]+', html)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', html)) <= set(ids)
    assert "#010203" not in html and "#040506" not in html


def test_names_from_the_spec_and_logs_are_text_and_nothing_else(tmp_path):
    label = "<b onload=x>&|$a$"
    factors = {"method": ["ce", "seq"], "decoding": {label: {"strategy": "beam"}, "greedy": {"strategy": "greedy"}}}
    plan = plan_of(tmp_path, factors=factors)
    finish_study(plan, tmp_path, leave_out=[name for name in plan.cells if "greedy" in name])
    failed = next(name for name in plan.stages if not (tmp_path / "stages" / name).exists())
    (tmp_path / "stages" / failed).mkdir()
    (tmp_path / "stages" / failed / "failed.json").write_text("{}")
    (tmp_path / "stages" / failed / "log.txt").write_text("</pre><script>alert(1)</script>\n")
    write_report(plan, tmp_path)
    html, markdown = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "<b onload" not in html + markdown and "<script" not in html
    (line,) = (line for line in markdown.splitlines() if "<script" in line)
    assert line.startswith("    </pre>")  # code, where nothing means anything
    assert "&lt;b onload=x&gt;&amp;|$a$" in html and "&lt;b onload=x>&amp;\\|$a$" in markdown
    assert "&lt;script&gt;alert(1)" in html
    assert escape("a|b_*c*\n`d`") == "a\\|b\\_\\*c\\* \\`d\\`"


def test_a_partial_study_says_so_on_top_with_what_has_failed(tmp_path):
    plan = plan_of(tmp_path, factors=SEEDS, claims=["seq > word by bleu"])
    missing = [name for name in plan.cells if "seq" in name]
    finish_study(plan, tmp_path, leave_out=missing)
    decode = next(name for name, stage in plan.stages.items() if stage.kind == "decode")
    (tmp_path / "stages" / decode).mkdir()
    (tmp_path / "stages" / decode / "failed.json").write_text("{}")
    (tmp_path / "stages" / decode / "log.txt").write_text("out of memory\n")
    shown = write_report(plan, tmp_path)
    html, markdown = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md"))
    for page in (shown, html, markdown):
        assert "6 of 9 cells are done, 3 failed." in page and "1 of 1 claims are not tested yet." in page
    assert f"The end of the log of {decode}:\n\n    out of memory\n" in markdown
    assert html.index("This report is partial") < html.index("<table")
    assert f"{decode} has failed; 3 cells need it" in html and "<pre>out of memory</pre>" in html
    assert "| seq | – | 3 |" in markdown and "| seq > word by bleu | not tested yet | – | – | – |" in markdown


def test_claims_are_judged_by_p_after_holm_over_the_claims_that_are_tested(tmp_path):
    tests = {
        "seq > word by bleu": (0.71, 0.03, "supported", "0.0300"),  # the largest: not changed
        "word > ce by bleu": (0.71, 0.012, "supported", "0.0240"),  # twice
        "ce > word by bleu": (-0.71, 0.004, "refuted", "0.0120"),  # three times
        "seq > ce by ter": (-2.0, None, "not tested yet", "–"),
    }
    plan = plan_of(tmp_path, factors=SEEDS, claims=list(tests))
    (tmp_path / "work").mkdir()
    finish_study(plan, tmp_path / "work")
    for claim, (difference, p, *_) in zip(plan.claims, tests.values(), strict=True):
        if p is None:
            (tmp_path / "work/stages" / claim["compare"] / "done.json").unlink()
        else:
            write_comparison(tmp_path / "work", claim["compare"], seeds=3, p=p, difference=difference)
    write_report(plan, tmp_path / "work")
    report = (tmp_path / "work/report.md").read_text()
    for text, (_, p, verdict, p_holm) in tests.items():
        line = next(line for line in report.splitlines() if line.startswith(f"| {text} |"))
        assert f"| {verdict} |" in line and line.endswith(f"| {'–' if p is None else f'{p:.4f}'} | {p_holm} |"), line
    assert "Holm's correction for the 3 claims that are tested" in report


def test_a_claim_is_undecided_where_p_is_small_only_before_the_correction(tmp_path):
    texts = ["seq > word by ter", "word > ce by ter"]
    plan, work = plan_of(tmp_path, factors=SEEDS, claims=texts), tmp_path / "work"
    work.mkdir()
    finish_study(plan, work)
    for claim, p in zip(plan.claims, (0.03, 0.01), strict=True):
        write_comparison(work, claim["compare"], seeds=1, p=p, difference=-0.5)
    write_report(plan, work)
    report = (work / "report.md").read_text()
    assert re.search(r"seq > word by ter \| supported \| [^|]*1,000 segments \| -0.50 \| 0.0300 \| 0.0300", report)
    for claim in plan.claims:
        write_comparison(work, claim["compare"], seeds=1, p=0.03, difference=0.5)
    write_report(plan, work)
    assert (work / "report.md").read_text().count("| undecided | approximate randomisation") == 2


def test_a_claim_whose_test_has_failed_says_so(tmp_path):
    plan = plan_of(tmp_path, factors=SEEDS, claims=["seq > word by bleu"])
    finish_study(plan, tmp_path)
    folder = tmp_path / "stages" / plan.claims[0]["compare"]
    (folder / "done.json").rename(folder / "failed.json")
    shown = write_report(plan, tmp_path)
    assert "| seq > word by bleu | the test failed |" in shown and "The tests of 1 of 1 claims have failed." in shown


def test_the_curve_of_a_chosen_teacher_is_that_of_its_training(tmp_path):
    _, work, _, _ = reported(
        tmp_path, factors=SEEDS | {"teacher-choice": ["low-loss"]}, common={"save-interval-updates": 10}
    )
    assert ">teacher<" in (work / "plots" / "training-1.svg").read_text()


def test_a_teacher_that_is_measured_in_two_ways_has_two_rows(tmp_path):
    _, _, _, markdown = reported(tmp_path, factors={"method": ["ce", "seq"], "evaluate.beam": [1, 5]})
    table = markdown[markdown.index("## BLEU") : markdown.index("## chrF2")]
    assert len(re.findall(r"^\| teacher \| [15] ", table, re.M)) == 2


def test_plots_of_factors_in_other_alphabets_have_names_of_their_own(tmp_path):
    factors = {"method": ["ce", "seq"]} | {
        name: {"a": {f"{side}-layers": 1}, "b": {f"{side}-layers": 2}}
        for name, side in (("größe", "encoder"), ("grüße", "decoder"))
    }
    _, work, html, _ = reported(tmp_path, factors=factors)
    assert plots_of(work) >= {"bleu-test-by-gr-e.svg", "bleu-test-by-gr-e-2.svg"}
    assert html.count("<svg") == len(plots_of(work))
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids)) and set(re.findall(r'(?:url\(|href=")#([^)"]+)', html)) <= set(ids)


def test_two_reports_at_a_time_are_refused(tmp_path):
    plan = plan_of(tmp_path)
    with exclusive(tmp_path / "report"), pytest.raises(KDError, match="another process is working on"):
        write_report(plan, tmp_path)


def test_the_colours_stand_out_on_a_white_page_and_on_a_dark_one():
    def brightness(colour):  # relative luminance, WCAG 2
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.05 + sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    for page in ("#ffffff", "#14171a"):
        for colour in (*COLOURS, *VALUES):
            low, high = sorted(map(brightness, (page, colour)))
            assert high / low > 3, (page, colour)


def test_a_study_of_which_nothing_is_done_has_a_report(tmp_path):
    plan = plan_of(tmp_path)
    write_report(plan, tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "0 of 4 cells are done, 4 waiting." in html and "<svg" not in html
    assert html.count("<li>Training curves") == html.count("<li>BLEU against the factors") == 1


def test_mean_and_standard_deviation_over_seeds(tmp_path):
    plan = plan_of(tmp_path, factors={"method": ["ce", "word", "seq"], "seed": [1, 2]})
    for cell, bleu in (("method=ce,seed=1", 10.0), ("method=ce,seed=2", 13.0), ("method=seq,seed=1", 15.0)):
        for name in plan.stages_of(cell):
            finish_stage(plan, tmp_path, name, 1.0)
            if plan.stages[name].kind == "evaluate":
                write_result(tmp_path, name, {"bleu": {"score": bleu, "signature": "BLEU|x"}}, rich=True)
    report = write_report(plan, tmp_path)
    assert "| ce | 11.50 ± 2.12 | 2 |" in report  # sqrt(((10 - 11.5)² + (13 - 11.5)²) / 1)
    assert "| seq | 15.00 (1 of 2) | 2 |" in report and "| word | – | 2 |" in report
    results = json.loads((tmp_path / "results.json").read_text())
    assert [cell["state"] for cell in results["cells"][:3]] == ["done", "done", "waiting"]


def test_marks_are_those_of_the_paired_t_test_after_holms_correction():
    # differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 3.46, p = 0.074; 2.9, 3, 3.1: t = 3 / (0.1 / sqrt 3) = 52, p = 0.0004
    marks, tests, note = find_marks(study_of(ce=[10, 11, 12], word=[11, 13, 15], seq=[12.9, 14, 15.1]), "bleu")
    assert marks == {(2, "test"): " ▲"} and tests == 2 and "after Holm's correction for the tests of the table" in note
    assert find_marks(study_of(ce=[10, 11, 12], seq=[7.1, 8, 8.9]), "bleu")[0] == {(1, "test"): " ▼"}
    # p = 0.03 alone (t = 2 / (0.6 / sqrt 3) = 5.77) is not enough among three such tests: 0.09
    assert find_marks(study_of(ce=[0, 0, 0], word=[1.4, 2, 2.6]), "bleu")[0]
    three = study_of(ce=[0, 0, 0], word=[1.4, 2, 2.6], seq=[1.4, 2.6, 2], both=[2, 1.4, 2.6])
    assert find_marks(three, "bleu")[0] == {}


def test_without_seeds_or_a_baseline_there_are_no_marks_and_the_note_says_why():
    marks, tests, note = find_marks(study_of(ce=[10], seq=[20]), "bleu")
    assert marks == {} and tests == 0 and "one seed per row" in note
    unequal = study_of(ce=[10, 11], seq=[20])  # the row of ce has all its seeds
    assert "no row and its row of ce have several seeds" in find_marks(unequal, "bleu")[2]
    marks, tests, note = find_marks(study_of(word=[10, 11], seq=[20, 21]), "bleu")
    assert marks == {} and "no row has a counterpart with the method ce" in note


def test_a_training_curve_has_each_validation_once_also_after_a_restart(tmp_path):
    log = tmp_path / "train.log"
    assert validation_curve(log) == []
    line = '2026-01-01 00:00:00 | INFO | valid | {"valid_nll_loss": "%s", "valid_num_updates": "%d"}\n'
    log.write_text(line % ("9", 10) + line % ("8", 20) + '| valid | {"valid_nll_l\n' + line % ("7.5", 20) + "other\n")
    assert validation_curve(log) == [(10, 9.0), (20, 7.5)]


def test_a_legend_names_what_differs():
    assert labels([{"method": "word", "alpha": 0.3, "x": 1}, {"method": "word", "alpha": 0.7, "x": 1}]) == [
        *("alpha 0.3", "alpha 0.7")
    ]
    assert labels([{"method": "ce"}, {"method": "word", "alpha": 0.3}]) == ["ce", "word, alpha 0.3"]
    assert labels([{"method": "word"}]) == ["word"]


def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch, capsys):
    import importlib.util

    plan = plan_of(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "plan.json").write_text(json.dumps(plan.as_dict()))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    assert main(["study", "report", str(plan.spec.path), "--out", str(tmp_path / "work")]) == 2
    assert "reports need matplotlib: pip install 'fairseq_kd[report]'" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["plan.json"]


def test_a_browser_shows_the_page_without_errors_at_the_width_of_a_phone_light_and_dark(tmp_path):
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next((path for name in ("chromium", "google-chrome") if (path := which(name))), None)
    if chromium is None:
        pytest.skip("no chromium on this machine")
    _, work, _, _ = reported(tmp_path, factors=SEEDS)
    errors, light = [], {}
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 420, "height": 900}, color_scheme=scheme)
            page.on("console", lambda message: errors.append(message.text))
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("request", lambda request: request.url.startswith(("file:", "data:")) or errors.append(request.url))
            page.goto(f"file://{work}/report.html")
            assert page.evaluate("document.documentElement.scrollWidth") == 420
            assert page.locator("svg").count() == 4
            light[scheme] = [_is_light(page, *what) for what in ((".plot svg", "color"), ("body", "backgroundColor"))]
        browser.close()
    assert errors == []
    assert light == {"light": [False, True], "dark": [True, False]}


def _is_light(page, where, name) -> bool:
    colour = page.evaluate(f"getComputedStyle(document.querySelector('{where}')).{name}")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) > 384
