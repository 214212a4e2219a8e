import json
from pathlib import Path

import pytest
from result_helpers import references, translations, write_result
from scipy.stats import ttest_ind

from fairseq_kd.cli.main import main

GOLD = references(80)
QUICK = ("--paired-bs-n", "200", "--paired-ar-n", "200")


def compare(*words) -> int:
    return main(["compare", *map(str, words), *QUICK])


@pytest.fixture
def make(tmp_path):
    """make(name, errors, seed, ...): the path of a result whose translations have a share of wrong words."""

    def make(name, errors, seed=1, gold=GOLD, **other):
        return write_result(tmp_path / name, translations(gold, errors, seed), gold, seed, **other)

    return make


def test_two_results_over_the_same_segments(make, tmp_path, capsys):
    out = tmp_path / "comparison.json"
    worse, better = make("worse.json", 0.5), make("better.json", 0.2, seed=2)
    assert compare(worse, better, "--out", out) == 0
    found = json.loads(out.read_text())
    assert (found["format"], found["kind"], found["baseline"], found["segments"]) == (2, "comparison", worse, 80)
    base, other = found["systems"]
    assert base["verdict"] is None and base["difference"] is None
    assert other["difference"] == pytest.approx(other["mean"] - base["mean"]) and other["difference"] > 5
    for test in ("bootstrap", "approximate_randomisation"):
        assert other[test]["p"] == other[test]["p_holm"] == [pytest.approx(1 / 201)]
        assert other[test]["signatures"] == found["signatures"][test] and len(found["signatures"][test]) == 1
    assert other["paired_t"] is None and other["decided_by"] == "approximate_randomisation"
    assert other["verdict"] == "better"
    printed = capsys.readouterr().out
    assert f"{better}: better" in printed and "|ar:200|seed:12345|" in printed and "|bs:200|seed:12345|" in printed


def test_p_values_are_corrected_for_their_number(make, tmp_path):
    out = tmp_path / "comparison.json"
    files = [make("a.json", 0.5), make("b.json", 0.2, seed=2), make("c.json", 0.5, seed=4)]
    assert compare(*files, "--out", out) == 0
    _, b, c = json.loads(out.read_text())["systems"]
    p_b, p_c = (system["approximate_randomisation"]["p"][0] for system in (b, c))
    assert p_b == pytest.approx(1 / 201) and p_c > 0.05
    assert b["approximate_randomisation"]["p_holm"][0] == pytest.approx(2 * p_b)
    assert c["approximate_randomisation"]["p_holm"][0] == pytest.approx(p_c)
    assert c["verdict"] == "no difference shown"


def test_a_lower_ter_is_better(make, capsys):
    assert compare(make("a.json", 0.5), make("b.json", 0.2), "--metric", "ter", "--fail-unless-better") == 0
    assert "b.json: better" in capsys.readouterr().out


def test_seeds_are_aggregated_and_tested_by_a_paired_t(make, tmp_path, capsys):
    out = tmp_path / "comparison.json"
    ce = [make(f"ce{seed}.json", 0.5, seed) for seed in (1, 2, 3)]
    kd = [make(f"kd{seed}.json", 0.3, seed) for seed in (1, 2, 3)]
    assert compare("--system", "ce", *ce, "--system", "kd", *kd, "--out", out) == 0
    first, second = json.loads(out.read_text())["systems"]
    assert first["name"] == "ce" and first["files"] == ce and second["seeds"] == [1, 2, 3]
    differences = [ours - theirs for ours, theirs in zip(second["scores"], first["scores"], strict=True)]
    mean = sum(differences) / 3
    sd = (sum((value - mean) ** 2 for value in differences) / 2) ** 0.5
    assert second["difference"] == pytest.approx(mean)
    assert second["paired_t"]["t"] == pytest.approx(mean / (sd / 3**0.5)) and second["paired_t"]["t"] > 4.303
    assert second["paired_t"]["p"] == second["paired_t"]["p_holm"] < 0.05  # 4.303: t of 0.975, two degrees of freedom
    assert second["decided_by"] == "paired_t" and second["verdict"] == "better"
    assert len(second["bootstrap"]["p"]) == 3
    assert second["bootstrap"]["p_holm"] == pytest.approx([3 / 201] * 3)
    assert "kd: better (by a paired t-test over seeds, alpha 0.05)" in capsys.readouterr().out


@pytest.mark.parametrize(("errors", "status"), [(0.2, 0), (0.5, 1), (0.8, 1)])
def test_the_exit_status_can_ask_for_a_better_system(make, errors, status):
    assert compare(make("a.json", 0.5), make("b.json", errors, seed=4), "--fail-unless-better") == status
    assert compare(make("a.json", 0.5), make("b.json", errors, seed=4)) == 0


def test_runs_are_paired_by_seed_whatever_their_order(make, tmp_path, capsys):
    ce = [make(f"ce{seed}.json", 0.5, seed) for seed in (1, 2, 3)]
    kd = [make(f"kd{seed}.json", 0.3, seed) for seed in (1, 2, 3)]
    found = []
    for order in (kd, [kd[2], kd[0], kd[1]]):
        assert compare("--system", "ce", *ce, "--system", "kd", *order, "--out", tmp_path / "out.json") == 0
        assert "seed by seed, over segments" in capsys.readouterr().out
        found.append(json.loads((tmp_path / "out.json").read_text()))
    assert found[0] == found[1] and found[0]["systems"][1]["pairing"] == "seed"


@pytest.mark.parametrize("seeds", [(4, 5, 6), (2, 3, 4), (None, None, None), (1, 1, 2), (1, 2), (1, 2, 3, 4)])
def test_runs_of_other_seeds_are_no_pairs_and_no_order_of_files_changes_anything(make, tmp_path, capsys, seeds):
    ce = [make(f"ce{seed}.json", 0.5 - 0.02 * seed, seed) for seed in (1, 2, 3)]
    kd = [make(f"kd{run}.json", 0.3 + 0.02 * run, run + 10) for run, _ in enumerate(seeds)]
    for path, seed in zip(kd, seeds, strict=True):
        Path(path).write_text(json.dumps(json.loads(Path(path).read_text()) | {"seed": seed}))
    found = []
    for theirs, ours in ((ce, kd), (ce, kd[::-1]), ([ce[1], ce[0], ce[2]], kd), (ce[::-1], [*kd[1:], kd[0]])):
        assert compare("--system", "ce", *theirs, "--system", "kd", *ours, "--out", tmp_path / "out.json") == 0
        found.append((json.loads((tmp_path / "out.json").read_text()), capsys.readouterr().out))
    assert all(one == found[0] for one in found[1:])
    base, other = found[0][0]["systems"]
    reference = ttest_ind(other["scores"], base["scores"], equal_var=False)
    assert other["pairing"] == "none" and other["decided_by"] == "welch_t" and other["paired_t"] is None
    assert other["welch_t"]["p"] == other["welch_t"]["p_holm"] == pytest.approx(reference.pvalue)
    assert other["verdict"] == ("better" if reference.pvalue < 0.05 else "no difference shown")
    assert other["approximate_randomisation"] == {"p": [], "signatures": [], "p_holm": []}
    assert "kd: seeds differ from the seeds of ce, repeat or are missing, so runs are not paired" in found[0][1]
    assert "by Welch's t-test over runs" in found[0][1] and "seed by seed" not in found[0][1]


def test_each_system_is_paired_with_the_baseline_by_itself(make, tmp_path, capsys):
    out = tmp_path / "out.json"
    systems = [("ce", 0.5, (1, 2, 3)), ("kd", 0.3, (1, 2, 3)), ("seq", 0.3, (4, 5, 6))]
    words = [
        word
        for name, errors, seeds in systems
        for word in ("--system", name, *(make(f"{name}{seed}.json", errors, seed) for seed in seeds))
    ]
    assert compare(*words, "--out", out) == 0
    _, kd, seq = json.loads(out.read_text())["systems"]
    assert (kd["pairing"], kd["decided_by"], len(kd["bootstrap"]["p"])) == ("seed", "paired_t", 3)
    assert (seq["pairing"], seq["decided_by"], len(seq["bootstrap"]["p"])) == ("none", "welch_t", 0)
    smaller, larger = sorted([kd["paired_t"], seq["welch_t"]], key=lambda found: found["p"])
    assert smaller["p_holm"] == pytest.approx(2 * smaller["p"])  # the t-tests are one family
    assert larger["p_holm"] == pytest.approx(max(larger["p"], 2 * smaller["p"]))
    printed = capsys.readouterr().out
    assert "seed by seed, over segments" in printed and "seq: seeds differ from the seeds of ce" in printed


def test_the_same_translations_do_not_make_the_others_surer(make, tmp_path):
    base, other = make("a.json", 0.5), make("c.json", 0.45, seed=3)
    assert compare(base, make("same.json", 0.5), other, "--out", tmp_path / "out.json") == 0
    _, same, c = json.loads((tmp_path / "out.json").read_text())["systems"]
    for test in ("bootstrap", "approximate_randomisation"):
        assert same[test]["p"] == same[test]["p_holm"] == [1.0]
        assert c[test]["p_holm"][0] == pytest.approx(min(1.0, 2 * c[test]["p"][0]))


def test_a_system_compared_with_its_own_translations_shows_nothing(make, tmp_path, capsys):
    same = [make(f"{number}.json", 0.5) for number in range(4)]
    assert compare("--system", "a", *same[:2], "--system", "b", *same[2:]) == 0
    assert "b: no difference shown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"gold": references(79)}, "has 79 segments, "),
        ({"gold": [*GOLD[:-1], "another one"]}, "(1 of 80, the first is segment 80)"),
        ({"sources_sha256": "of noised sources"}, "was translated from another source text"),
        ({"format": 1}, "has format 1, this fairseq-kd compares format 2"),
        ({"kind": "comparison"}, "is not a result"),
        ({"hypotheses": ["one"]}, "is damaged: it has 1 hypotheses for 80"),
        ({"references": "text"}, "is damaged"),
        ({"hypotheses": None}, "is damaged"),
        ({"hypotheses": [1] * 80}, "a hypothesis or reference is not text"),
        ({"references": [None] * 80}, "a hypothesis or reference is not text"),
    ],
)
def test_results_that_cannot_be_compared_are_one_error(make, tmp_path, capsys, other, message):
    out = tmp_path / "out.json"
    assert compare(make("a.json", 0.3), make("b.json", 0.3, **other), "--out", out) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairseq_kd: error: ") and error.count("\n") == 1
    assert message in error and "b.json" in error and not out.exists()


def test_a_seed_that_is_no_number_is_damage(tmp_path, make, capsys):
    other = make("b.json", 0.3)
    result = json.loads((tmp_path / "b.json").read_text()) | {"seed": [1]}
    (tmp_path / "b.json").write_text(json.dumps(result))
    assert compare(make("a.json", 0.3), other) == 2
    assert "or the seed is not a number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "at least two systems"),
        (["a.json"], "at least two systems"),
        (["a.json", "a.json"], "a.json is given twice"),
        (["--system", "x", "a.json", "--system", "y", "a.json"], "a.json is given twice"),
        (["--system", "x", "a.json", "--system", "x", "b.json"], "x is the name of two systems"),
        (["--system", "x", "--system", "y", "b.json"], "--system x: a name and at least one result"),
        (["--system", "x", "a.json", "--system", "y", "b.json", "c.json"], "x has 1, y has 2 files"),
        (["a.json", "--system", "x", "b.json"], "not both"),
        (["a.json", "gone.json"], "gone.json cannot be read as a result"),
        (["a.json", "broken.json"], "broken.json cannot be read as a result"),
        (["a.json", "."], ". cannot be read as a result"),
        (["a.json", "b.json", "--alpha", "5"], "--alpha 5.0: must be between 0 and 1"),
        (["a.json", "b.json", "--out", "/dev/null/x.json"], "cannot write to"),
        (["a.json", "b.json", "--out", "."], "cannot write to .: it is a folder"),
        (["a.json", "b.json", "--out", "./b.json"], "--out ./b.json is one of the results"),
        (["--system", "a.json", "b.json"], "--system a.json: that is a file; a name comes first"),
        (["--system", "x", "a.json", "./a.json", "--system", "y", "b.json", "c.json"], "a.json is given twice"),
        (["a.json", "deep.json"], "deep.json cannot be read as a result"),
    ],
)
def test_bad_options_are_one_error(make, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    make("a.json", 0.3), make("b.json", 0.3)
    (tmp_path / "broken.json").write_text('{"format": 2, "hypo')
    (tmp_path / "deep.json").write_text("[" * 200_000)
    assert compare(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairseq_kd: error: ") and error.count("\n") == 1 and message in error


def test_a_seed_of_0_is_refused_because_sacrebleu_would_draw_another(make, monkeypatch, capsys):
    monkeypatch.setenv("SACREBLEU_SEED", "0")
    assert compare(make("a.json", 0.3), make("b.json", 0.3)) == 2
    assert "SACREBLEU_SEED is 0" in capsys.readouterr().err


def test_numbers_of_resamples_are_checked(make, capsys):
    files = make("a.json", 0.3), make("b.json", 0.3)
    assert main(["compare", *files, "--paired-ar-n", "0"]) == 2
    assert "--paired-ar-n 0: must be at least 1" in capsys.readouterr().err
