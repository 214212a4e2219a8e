"""Learning and forgetting by segment: shares, intervals, parts, and the two commands that count them."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from result_helpers import references, translations, write_result

from fairseq_kd.cli.main import main
from fairseq_kd.evaluation.changes import CLASSES, THRESHOLD, agresti_min, count_changes, order_of_parts, wilson
from fairseq_kd.evaluation.segment_changes import chrf_signature, sentence_chrf

GOLD = ["the cat sat", "a small dog", "red house", "we go home", "rain"]
BEFORE = ["zzzz", "a small dog", "red mouse", "we go hume", "rain"]  # chrF 0, 100, -, below 95, 100
AFTER = ["the cat sat", "qqqq", "red mouse", "we go home", "rain"]  # chrF 100, 0, the same, 100, 100
PARTS = ["10", "2", "2", "2", "10"]
QUICK = ("--paired-bs-n", "20", "--paired-ar-n", "20")


def compare(*words) -> int:
    return main(["compare", *map(str, words), *QUICK])


@pytest.fixture
def files(tmp_path):
    """(result before, result afterwards, parts) of the five segments."""
    parts = tmp_path / "parts.txt"
    parts.write_text("".join(f"{part}\n" for part in PARTS))
    paths = [write_result(tmp_path / f"{n}.json", lines, GOLD) for n, lines in (("before", BEFORE), ("after", AFTER))]
    return *paths, str(parts)


def changes_of(folder, *words) -> list:
    out = folder / "comparison.json"
    assert compare(*words, "--segments", "--out", out) == 0
    return json.loads(out.read_text())["changes"]


def some_scores(seed: int, runs: int = 1, segments: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 100, (runs, segments))


def test_sentence_chrf_is_that_of_sacrebleu_with_the_settings_of_the_corpus_score():
    expected = [sacrebleu.sentence_chrf(ours, [gold]).score for ours, gold in zip(BEFORE, GOLD, strict=True)]
    assert sentence_chrf(BEFORE, GOLD).tolist() == pytest.approx(expected)
    assert expected[0] == 0 and expected[1] == expected[4] == pytest.approx(100) and 0 < expected[3] < 95
    assert chrf_signature().startswith("chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_the_default_threshold_is_about_one_wrong_word_of_five_letters_among_30():
    words = ["".join(chr(97 + (7 * n + 11 * k + n * k) % 26) for k in range(5)) for n in range(30)]
    wrong = [*words[:15], "#####", *words[16:]]
    lost = 100 - sacrebleu.sentence_chrf(" ".join(wrong), [" ".join(words)]).score
    assert lost == pytest.approx(THRESHOLD, abs=0.2)


def test_five_segments_by_hand(files, tmp_path, capsys):
    before, after, parts = files
    (found,) = changes_of(tmp_path, before, after, "--parts", parts)
    overall = found["overall"]
    assert [overall[name]["counts"] for name in CLASSES] == [[2], [2], [1]]
    assert [overall[name]["share"] for name in CLASSES] == [0.4, 0.4, 0.2] and overall["net"]["share"] == 0.2
    hume, mouse = (sacrebleu.sentence_chrf(BEFORE[n], [GOLD[n]]).score for n in (3, 2))
    assert overall["gained"]["chrf_before"] == pytest.approx((0 + hume) / 2)
    assert overall["gained"]["chrf_after"] == pytest.approx(100) == overall["lost"]["chrf_before"]
    assert overall["kept"]["chrf_before"] == overall["kept"]["chrf_after"] == pytest.approx((mouse + 100) / 2)
    assert overall["chrf_before"] == pytest.approx((0 + 100 + mouse + hume + 100) / 5)
    assert [part["part"] for part in found["parts"]] == ["2", "10"]  # by value
    assert [[part[name]["counts"][0] for name in CLASSES] for part in found["parts"]] == [[1, 1, 1], [1, 1, 0]]
    assert found["parts"][1]["lost"]["chrf_before"] is None
    assert (found["threshold"], found["interval"], found["seeds"]) == (5.0, "wilson", [1])
    printed = capsys.readouterr().out
    assert f"segments {after} against {before}: gained or lost by more than 5 points of sentence chrF" in printed
    assert re.search(r"\n +net +\+20\.0 %", printed) and "with a threshold of 2.5 points: " in printed
    assert "; of 10 points: gained " in printed and found["signature"] in printed


def test_a_change_of_exactly_the_threshold_is_kept():
    before, after = np.array([[10, 20, 30, 40, 0.1]]), np.array([[15, 25.01, 24.99, 35, 5.1]])
    found = count_changes(before, after, 5.0)["overall"]  # 5.1 - 0.1 is 5 only up to rounding
    assert [found[name]["counts"][0] for name in CLASSES] == [1, 3, 1]


def test_half_and_double_the_threshold_show_how_much_depends_on_it():
    before = np.zeros((1, 4))
    found = count_changes(before, np.array([[3, 6, -3, 11]]), 5.0)["sensitivity"]
    assert found[0] == {"threshold": 2.5, "gained": 0.75, "kept": 0.0, "lost": 0.25, "net": 0.5}
    assert found[1] == {"threshold": 10.0, "gained": 0.25, "kept": 0.75, "lost": 0.0, "net": 0.25}


def test_intervals_by_hand():
    """Wilson: z² = 3.841459; 1 of 4: centre 2.920729 / 7.841459, half 1.959964 / 7.841459 √(0.75 + 0.960365)."""
    assert wilson(1, 4) == pytest.approx([0.372473 - 0.326886, 0.372473 + 0.326886], abs=2e-6)
    assert wilson(0, 10)[0] == 0 and wilson(0, 10)[1] == pytest.approx(3.841459 / 13.841459, abs=1e-6)
    # 3 gained, 1 lost, 8 segments: 0.35 and 0.15 of 10; half 1.959964 √((0.5 - 0.2²) / 10)
    assert agresti_min(3, 1, 8) == pytest.approx([0.2 - 0.420365, 0.2 + 0.420365], abs=1e-6)
    low, high = agresti_min(0, 0, 50)  # no change among 50 segments does not show that none is possible
    assert high == -low > 0


def test_several_seeds_have_the_interval_of_their_mean():
    """gained 20, 30 and 40 of 100: 0.3, half 4.302653 · 0.1 / √3; lost 10 in each run."""
    after = np.zeros((3, 100))
    for run, gained in enumerate((20, 30, 40)):
        after[run, :gained], after[run, 90:] = 50, -50
    found = count_changes(np.zeros((3, 100)), after, 5.0)
    assert found["interval"] == "t"
    overall = found["overall"]
    assert overall["gained"]["shares"] == [0.2, 0.3, 0.4] and overall["gained"]["counts"] == [20, 30, 40]
    assert overall["gained"]["share"] == pytest.approx(0.3)
    assert overall["gained"]["interval"] == pytest.approx([0.3 - 0.248414, 0.3 + 0.248414], abs=1e-6)
    assert overall["net"]["interval"] == pytest.approx([0.2 - 0.248414, 0.2 + 0.248414], abs=1e-6)
    assert overall["lost"]["interval"] is None and overall["lost"]["share"] == pytest.approx(0.1)


def test_an_interval_over_seeds_stays_among_possible_shares():
    after = np.zeros((2, 4))
    after[1] = 50  # 0 of 4, then 4 of 4
    found = count_changes(np.zeros((2, 4)), after, 5.0)["overall"]
    assert found["gained"]["interval"] == [0.0, 1.0] and found["net"]["interval"] == [-1.0, 1.0]


@pytest.mark.parametrize("runs", [1, 3])
def test_before_and_afterwards_exchanged_exchanges_gained_and_lost(runs):
    before, after = some_scores(1, runs), some_scores(2, runs)
    one, other = (count_changes(*both, 5.0)["overall"] for both in ((before, after), (after, before)))
    assert one["gained"]["counts"] == other["lost"]["counts"] != one["lost"]["counts"]
    assert one["gained"]["interval"] == other["lost"]["interval"] and one["kept"]["counts"] == other["kept"]["counts"]
    assert one["net"]["share"] == pytest.approx(-other["net"]["share"])
    assert one["net"]["interval"] == pytest.approx([-end for end in reversed(other["net"]["interval"])])
    assert one["gained"]["chrf_before"] == other["lost"]["chrf_after"]


def test_counts_of_parts_sum_to_those_of_all_segments_and_classes_to_all():
    before, after = some_scores(3, 2), some_scores(4, 2)
    labels = [["news", "talks", "3"][n % 3] for n in range(200)]
    found = count_changes(before, after, 5.0, labels)
    for name in CLASSES:
        counts = [part[name]["counts"] for part in found["parts"]]
        assert np.sum(counts, axis=0).tolist() == found["overall"][name]["counts"]
    assert sum(part["segments"] for part in found["parts"]) == 200
    for group in (found["overall"], *found["parts"]):
        assert sum(group[name]["share"] for name in CLASSES) == pytest.approx(1)
        assert group["net"]["share"] == pytest.approx(group["gained"]["share"] - group["lost"]["share"])


def test_parts_are_in_the_order_of_numbers_then_words():
    assert order_of_parts(["b", "10", "2", "a", "2", "01"]) == ["01", "2", "10", "a", "b"]


def test_identical_translations_are_all_kept(files, tmp_path):
    _, after, _ = files
    (found,) = changes_of(tmp_path, after, write_result(tmp_path / "same.json", AFTER, GOLD))
    assert found["overall"]["kept"]["share"] == 1 and found["overall"]["net"]["share"] == 0


def test_runs_are_paired_by_seed_whatever_their_order(tmp_path, capsys):
    gold, systems = references(40), {}
    for name, errors in (("ce", 0.5), ("kd", 0.3)):
        systems[name] = [
            write_result(tmp_path / f"{name}{seed}.json", translations(gold, errors, seed), gold, seed)
            for seed in (1, 2, 3)
        ]
    (found,) = changes_of(tmp_path, "--system", "ce", *systems["ce"], "--system", "kd", *systems["kd"])
    printed = capsys.readouterr().out
    again = changes_of(tmp_path, "--system", "ce", *systems["ce"][::-1], "--system", "kd", *systems["kd"])
    assert [found] == again and (found["name"], found["baseline"], found["seeds"]) == ("kd", "ce", [1, 2, 3])
    assert "segments kd against ce, means over 3 seeds: " in printed and "over seeds: of the t distribution" in printed
    for run, seed in enumerate((1, 2, 3)):
        (alone,) = changes_of(tmp_path, tmp_path / f"ce{seed}.json", tmp_path / f"kd{seed}.json")
        assert [alone["overall"][name]["counts"][0] for name in CLASSES] == [
            found["overall"][name]["counts"][run] for name in CLASSES
        ]


def test_examples_are_the_segments_that_changed_most(files, tmp_path, capsys):
    before, after, parts = files
    sources = tmp_path / "test.de"
    sources.write_text("eins\nzwei\ndrei\nvier\nfünf\n")
    hashed = hashlib.sha256(sources.read_bytes()).hexdigest()
    for path in (before, after):
        Path(path).write_text(json.dumps(json.loads(Path(path).read_text()) | {"sources_sha256": hashed}))
    words = (before, after, "--show", "3", "--parts", parts, "--sources", sources)
    (found,) = changes_of(tmp_path, *words)
    first, second, third = found["examples"]
    expected = {"segment": 1, "seed": 1, "part": "10", "chrf_before": 0.0, "chrf_after": 100.0}
    expected |= {"source": "eins", "reference": "the cat sat", "before": "zzzz", "after": "the cat sat"}
    assert first == expected | {"chrf_after": pytest.approx(100)}
    assert (second["segment"], second["after"], third["segment"]) == (2, "qqqq", 4)
    printed = capsys.readouterr().out
    assert "segment 1, part 10: chrF 0.00 before, 100.00 after (+100.00)\n    source     eins\n" in printed
    sources.write_text("eins\nzwei\ndrei\nvier\nsechs\n")
    assert compare(*words, "--segments") == 2
    assert "test.de is not the text that the systems translated" in capsys.readouterr().err


def test_the_plot_has_the_same_bytes_each_time_and_names_the_parts(files, tmp_path):
    before, after, parts = files
    plots = [tmp_path / name for name in ("a.svg", "b.svg")]
    for plot in plots:
        changes_of(tmp_path, before, after, "--parts", parts, "--changes-plot", plot)
    text = plots[0].read_text()
    assert plots[0].read_bytes() == plots[1].read_bytes()
    for word in (*CLASSES, "part 2", "part 10", "share of the segments, %"):
        assert f">{word}<" in text, word


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "parts.txt"], "--parts has no effect without --segments"),
        (["--change-threshold", "2"], "--change-threshold has no effect without --segments"),
        (["--changes-plot", "x.svg"], "--changes-plot has no effect without --segments"),
        (["--show", "2"], "--show has no effect without --segments"),
        (["--segments", "--sources", "parts.txt"], "--sources has no effect without --show"),
        (["--segments", "--change-threshold", "0"], "--change-threshold 0: must be above 0 and below 100"),
        (["--segments", "--change-threshold", "nan"], "--change-threshold nan: must be above 0"),
        (["--segments", "--show", "-1"], "--show -1: must be 0 or above"),
        (["--segments", "--changes-plot", "x.png"], "--changes-plot x.png: the name must end with .svg"),
        (["--segments", "--changes-plot", "folder.svg"], "cannot write to folder.svg: it is a folder"),
        (["--segments", "--parts", "gone.txt"], "--parts gone.txt does not exist"),
        (["--segments", "--parts", "."], "--parts . does not exist or is not a file"),
        (["--segments", "--parts", "four.txt"], "--parts four.txt has 4 lines for 5 segments"),
        (["--segments", "--parts", "empty.txt"], "line 3 of --parts empty.txt is empty"),
        (["--segments", "--show", "1", "--sources", "gone.txt"], "--sources gone.txt does not exist"),
        (["--segments", "--scores-only"], "--scores-only needs --system"),
    ],
)
def test_bad_options_are_one_error_before_anything_is_written(files, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "four.txt").write_text("1\n1\n2\n2\n")
    (tmp_path / "empty.txt").write_text("1\n1\n \n2\n2\n")
    assert compare(*files[:2], *words, *([] if "--scores-only" in words else ["--out", "out.json"])) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairseq_kd: error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "out.json").exists() and not (tmp_path / "x.svg").exists()


def test_a_text_in_place_of_the_parts_is_refused(tmp_path, capsys):
    gold = references(120)
    paths = [write_result(tmp_path / f"{n}.json", translations(gold, 0.3, n), gold) for n in (1, 2)]
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in gold))
    assert compare(*paths, "--segments", "--parts", tmp_path / "text") == 2
    assert "has 120 different labels, more than 100" in capsys.readouterr().err


def test_runs_without_partners_are_refused(tmp_path, capsys):
    for name, seed in (("a", 1), ("b", 2), ("c", 1), ("d", 3)):
        write_result(tmp_path / f"{name}.json", AFTER, GOLD, seed)
    a, b, c, d = (tmp_path / f"{name}.json" for name in "abcd")
    assert compare("--system", "ce", a, b, "--system", "kd", c, d, "--segments") == 2
    assert "--segments: kd has the seeds [1, 3], ce has [1, 2]" in capsys.readouterr().err


def test_scores_only_compares_nothing(files, tmp_path, capsys):
    words = ["--system", "a", files[0], "--system", "b", files[1], "--scores-only", "--segments"]
    assert compare(*words, "--out", tmp_path / "x.json") == 2
    assert "--segments has no effect with --scores-only" in capsys.readouterr().err


@pytest.fixture(scope="module")
def evaluated(data_bin, teacher, tmp_path_factory):
    """(function that evaluates the teacher with more options, path of a result)."""
    path = tmp_path_factory.mktemp("changes") / "before.json"

    def run(*words) -> int:
        how = ("--checkpoint", str(teacher), "--cpu", "--beam", "1", "--max-len-b", "15", "--confidence-n", "0")
        return main(["evaluate", str(data_bin), *how, *map(str, words)])

    assert run("--out", path) in (0, None)
    return run, path


def test_evaluate_compares_with_an_earlier_result(evaluated, tmp_path, capsys):
    run, before = evaluated
    parts, out, plot = tmp_path / "test.txt", tmp_path / "after.json", tmp_path / "p.svg"
    parts.write_text("".join(f"{1 + n % 2}\n" for n in range(30)))
    content = json.loads(before.read_text())
    content.pop("seal")
    content["hypotheses"] = [content["references"][0], *content["hypotheses"][1:]]  # one perfect translation
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(content))
    words = ("--parts", parts, "--changes-plot", plot, "--show", "1", "--out", out)
    assert run("--compare-to", changed, *words) in (0, None)
    found = json.loads(out.read_text())["changes"]
    assert found["before"]["file"] == str(changed)
    assert found["before"]["checkpoint_sha256"] == content["checkpoint_sha256"]
    lost = [part["lost"]["counts"][0] for part in found["parts"]]
    kept = [part["kept"]["counts"][0] for part in found["parts"]]
    assert (lost, kept) == ([1, 0], [14, 15]) and found["overall"]["gained"]["counts"] == [0]
    (example,) = found["examples"]
    assert (example["segment"], example["before"]) == (1, content["references"][0])
    assert example["source"] == (Path(content["data_bin"]) / "raw" / "test.qaa").read_text().splitlines()[0]
    printed = capsys.readouterr().out
    assert f"segments against {changed}: gained or lost by more than 5 points" in printed and f"wrote {plot}" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"references": ["x"] * 30}, "has other references than"),
        ({"references": ["x"] * 29, "hypotheses": ["x"] * 29}, "has 30 segments, "),
        ({"sources_sha256": "of others"}, "was translated from another source text than"),
        ({"format": 1}, "has format 1"),
        ({"hypotheses": None}, "is damaged: entries are missing"),
        ({"kind": "comparison"}, "is not a result"),
    ],
)
def test_evaluate_refuses_an_earlier_result_of_something_else(evaluated, tmp_path, capsys, change, message):
    run, before = evaluated
    content = json.loads(before.read_text()) | change
    content.pop("seal")
    other, out = tmp_path / "other.json", tmp_path / "out.json"
    other.write_text(json.dumps(content))
    assert run("--compare-to", other, "--out", out) == 2
    error = capsys.readouterr().err
    assert error.count("fairseq_kd: error: ") == 1 and message in error and "other.json" in error and not out.exists()


def test_evaluate_keeps_the_earlier_result_and_checks_its_options(evaluated, tmp_path, capsys):
    run, before = evaluated
    content = before.read_bytes()
    assert run("--compare-to", before, "--out", before) == 2
    assert "is the result of --compare-to: it would be lost" in capsys.readouterr().err
    assert before.read_bytes() == content
    (tmp_path / "parts").write_text("1\n2\n")
    assert run("--compare-to", before, "--parts", tmp_path / "parts") == 2
    assert "has 2 lines for 30 segments" in capsys.readouterr().err
    assert run("--compare-to", "") == 2
    assert "cannot be read as a result" in capsys.readouterr().err
    assert run("--parts", tmp_path / "parts") == 2
    assert "--parts has no effect without --compare-to" in capsys.readouterr().err
