"""evaluate --metric and compare --metric with functions of the user."""

import json

import numpy as np
import pytest
from docs_helpers import blocks_run_by
from result_helpers import references, translations, write_result
from scipy.stats import permutation_test

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.other_metrics import OtherMetric, load_metrics
from fairseq_kd.study.sections import check_section

GOLD = references(12)


def measured(place: str, hypotheses=GOLD, resamples=0) -> dict:
    return OtherMetric.load(f"metric_helpers:{place}").measure(GOLD, hypotheses, GOLD, resamples)


def test_a_result_holds_the_scores_and_prints_them(data_bin, teacher, tmp_path, capsys):
    words = ["metric_helpers:same_length", "wrong=metric_helpers:errors", "metric_helpers:count"]
    words += ["metric_helpers:source_words"]
    given = ["evaluate", data_bin, "--checkpoint", teacher, "--metric", *words, "--cpu", "--max-len-b", 8, "--beam", 1]
    assert main([*map(str, given), "--confidence-n", "100", "--out", str(tmp_path / "a.json")]) == 0
    result = json.loads((tmp_path / "a.json").read_text())
    found, printed = result["metrics"], capsys.readouterr().out
    assert list(found) == ["same_length", "wrong", "count", "source_words"]
    pairs = list(zip(result["hypotheses"], result["references"], strict=True))
    shares = [min(map(len, pair)) / max(1, *map(len, pair)) for pair in pairs]
    assert found["same_length"]["segments"] == shares
    assert found["same_length"]["score"] == pytest.approx(sum(shares) / 30)
    assert found["same_length"]["mean"] == pytest.approx(np.mean(shares), abs=0.05)
    assert found["wrong"]["signature"] == "wrong|errors-2" and found["wrong"]["lower_is_better"] is True
    assert (found["count"]["score"], found["count"]["segments"]) == (30, None) and "ci" not in found["count"]
    sources = (data_bin / "raw" / "test.qaa").read_text().splitlines()
    assert found["source_words"]["segments"] == [len(line.split()) for line in sources]
    assert found["same_length"]["verbose"] in printed and "count = 30.0000" in printed


def test_what_a_metric_may_return():
    assert measured("count")["score"] == 12 and measured("count")["segments"] is None
    assert measured("percent")["score"] == 100 and measured("percent")["segments"] == [1.0] * 12
    assert measured("same_length")["score"] == 1 and not measured("same_length")["lower_is_better"]
    assert measured("same_length")["signature"] == "same_length|metric_helpers:same_length"
    flat = measured("same_length", resamples=50)
    assert (flat["mean"], flat["ci"]) == (1, 0)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("metric_helpers:fails", "failed (RuntimeError: no model is here)"),
        ("metric_helpers:too_few", "it has 1 numbers for 2 segments"),
        ("metric_helpers:nothing", "must return a finite number"),
        ("metric_helpers:infinite", "a number is not finite"),
        ("metric_helpers:misspelt", "it has the key 'segment', known are lower_is_better, score, segments"),
    ],
)
def test_a_wrong_answer_is_one_error_before_the_decoding(place, message):
    with pytest.raises(KDError) as error:
        OtherMetric.load(place).check(GOLD, GOLD)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["/tmp/x.py:f"], "must be MODULE:CALLABLE"),
        (["metric_helpers"], "must be MODULE:CALLABLE"),
        (["a.b:c()"], "must be MODULE:CALLABLE"),
        (["gone_package:f"], "cannot be imported (ModuleNotFoundError"),
        (["metric_helpers:gone"], "cannot be imported (AttributeError"),
        (["metric_helpers:NUMBER"], "is int, not a function"),
        (["bleu=metric_helpers:count"], "bleu is measured by sacreBLEU"),
        (["metric_helpers:count", "count=metric_helpers:errors"], "the name count is given twice"),
    ],
)
def test_what_cannot_be_loaded_is_one_error(texts, message):
    with pytest.raises(KDError) as error:
        load_metrics(texts)
    assert message in str(error.value)


def test_a_failing_metric_ends_the_command_before_the_decoding(data_bin, teacher, capsys):
    given = ["evaluate", str(data_bin), "--checkpoint", str(teacher), "--metric", "metric_helpers:fails", "--cpu"]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert "no model is here" in error and "decoding" not in error


def test_a_section_of_a_study_may_name_a_metric():
    check_section("spec.yaml", "evaluate", {"metric": ["metric_helpers:errors"], "gap": True})


@pytest.fixture
def make(tmp_path):
    def make(name, errors, place="same_length", seed=1, **other):
        hypotheses = translations(GOLD, errors, seed)
        return write_result(
            tmp_path / name, hypotheses, GOLD, seed, metrics={place: measured(place, hypotheses)} | other
        )

    return make


def test_the_tests_over_segments_are_those_of_scipy(make, tmp_path, capsys):
    """Approximate randomisation counts all exchanges of these few segments, as scipy's test of paired samples does."""
    files = [make("a.json", 0.4), make("b.json", 0.2, seed=2)]
    words = ["compare", *files, "--metric", "same_length", "--out", str(tmp_path / "c.json"), "--paired-bs-n", "50"]
    assert main(words) == 0
    found = json.loads((tmp_path / "c.json").read_text())
    _, row = found["systems"]
    a, b = (json.loads(open(path).read())["metrics"]["same_length"]["segments"] for path in files)  # noqa: SIM115

    def difference(x, y, axis):
        return np.mean(y - x, axis=axis)

    expected = permutation_test((np.array(a), np.array(b)), difference, permutation_type="samples", n_resamples=10**5)
    assert row["approximate_randomisation"]["p"][0] == pytest.approx(expected.pvalue)
    assert row["difference"] == pytest.approx(np.mean(b) - np.mean(a))
    assert found["metric"] == "same_length"
    assert found["signatures"]["bootstrap"] == ["same_length|metric_helpers:same_length|bs:50|seed:12345"]
    printed = capsys.readouterr().out
    assert f"{np.mean(a):.4f}" in printed and printed.startswith("same_length of 12 segments")


def test_a_lower_score_is_better_where_the_metric_says_so(make, capsys):
    files = [make("a.json", 0.9, "errors"), make("b.json", 0, "errors", seed=2)]
    assert main(["compare", *files, "--metric", "errors", "--fail-unless-better"]) == 0
    assert "b.json: better" in capsys.readouterr().out


def test_results_that_cannot_be_compared_by_a_metric_are_refused(make, capsys):
    files = [make("a.json", 0.4), make("b.json", 0.2, seed=2)]
    for name, place in (("c.json", "count"), ("p.json", "percent")):
        files.append(make(name, 0.2, place))
    changed = json.loads(open(files[1]).read())  # noqa: SIM115
    changed["metrics"]["same_length"]["signature"] = "same_length|other"
    with open(files[1], "w") as file:
        json.dump(changed, file)
    for chosen, metric, message in (
        ((0, 2), "same_length", "has no metric 'same_length', it has bleu, chrf, ter, count"),
        ((0, 1), "same_length", "was scored by same_length|other"),
        ((2, 2), "count", "is given twice"),
        ((3, 0), "percent", "no scores of segments whose mean is percent"),
        ((2, 0), "count", "no scores of segments whose mean is count"),
    ):
        assert main(["compare", *(files[n] for n in chosen), "--metric", metric]) == 2
        assert message in capsys.readouterr().err


def test_the_metric_of_the_page():
    (block,) = blocks_run_by("test_the_metric_of_the_page")
    scope = {}
    exec(block.text, scope)
    (name,) = [name for name, value in scope.items() if callable(value) and not name.startswith("_")]
    metric = OtherMetric(name, f"my_metrics:{name}", scope[name])
    found = metric.measure(["a b"], ["a b c "], ["a b"], 0)
    assert found["segments"] == [0.5] and found["lower_is_better"] is False
