"""From result files to verdicts: each figure is worked out again from the texts by sacreBLEU and scipy."""

import json

import numpy as np
import pytest
import sacrebleu
from report_helpers import finish_stage, plan_of
from result_helpers import references, translations, write_result
from scipy.stats import ttest_1samp, ttest_rel

from fairseq_kd.cli.main import main
from fairseq_kd.study.claims import read_claim_results
from fairseq_kd.study.report.write import write_report
from fairseq_kd.study.show import write_results
from fairseq_kd.study.stage import resolve

GOLD = references(40)
ERRORS = {("word", 0): 0.2, ("word", 30): 0.45, ("seq", 0): 0.22, ("seq", 30): 0.3}
CLAIMS = [
    "drop(seq, noise 0 -> 30) < drop(word, noise 0 -> 30) by bleu",
    "relative drop(seq, noise 0 -> 30) < relative drop(word, noise 0 -> 30) by bleu",
    "word = seq within 8 at noise 0 by bleu",
    "bleu falls with noise at method word",
    "seq > word at noise 30 by bleu",
    "crossing(word, seq; noise) by bleu",
    "seq is best of method at noise 30 by bleu",
]


def studied(folder, seeds):
    """(results, key -> texts of each seed) of a study whose claims were tested by their own commands."""
    factors = {"method": ["word", "seq"], "noise": [0, 30], "seed": seeds}
    plan, texts = plan_of(folder, factors=factors, claims=CLAIMS), {}
    for cell in plan.cells.values():
        method, noise, seed = (cell["factors"].get(name) for name in ("method", "noise", "seed"))
        lines = translations(GOLD, ERRORS[method, noise], seed=1000 * seed + noise + len(method))
        texts.setdefault((method, noise), []).append(lines)
        for stage in cell["results"].values():
            finish_stage(plan, folder, stage, 1.0)
            write_result(folder / "stages" / stage / "result.json", lines, GOLD, seed=seed)
    for name, stage in plan.stages.items():
        if stage.kind == "compare":
            finish_stage(plan, folder, name, 1.0)
            command = resolve(stage.command, folder, folder / "stages" / name, None, {})
            fewer = ["500" if word == "10000" else word for word in command[1:]]
            assert main(fewer) == 0
    return plan, write_results(plan, folder), texts


def bleu(lines, picks=None) -> float:
    picks = range(len(GOLD)) if picks is None else picks
    return sacrebleu.corpus_bleu([lines[n] for n in picks], [[GOLD[n] for n in picks]]).score


def test_verdicts_over_three_seeds_are_those_of_scipy_on_sacrebleus_scores(tmp_path):
    plan, results, texts = studied(tmp_path, [1, 2, 3])
    scores = {key: np.array([bleu(lines) for lines in runs]) for key, runs in texts.items()}
    lost = {name: scores[name, 0] - scores[name, 30] for name in ("word", "seq")}
    percent = {name: 100 * lost[name] / scores[name, 0] for name in lost}
    drop, relative, equal, trend, better, crossing, best = read_claim_results(results)
    for claim, values in ((drop, lost), (relative, percent)):
        reference = ttest_1samp(values["seq"] - values["word"], 0)
        assert claim.p == pytest.approx(reference.pvalue)
        assert claim.interval == pytest.approx(list(reference.confidence_interval()))
    apart = scores["word", 0] - scores["seq", 0]
    sides = [ttest_1samp(apart, bound, alternative=way).pvalue for bound, way in ((-8, "greater"), (8, "less"))]
    assert equal.p == pytest.approx(max(sides))
    assert trend.p == pytest.approx(ttest_1samp(-lost["word"], 0).pvalue)  # two levels: the slope is the difference
    reference = ttest_rel(scores["seq", 30], scores["word", 30])
    assert [better.p, best.p] == pytest.approx([reference.pvalue] * 2)
    assert better.interval == pytest.approx(list(reference.confidence_interval()))
    assert crossing.p is None
    tested = sorted((drop, relative, equal, trend, better, best), key=lambda claim: claim.p)
    corrected = np.maximum.accumulate([(6 - rank) * claim.p for rank, claim in enumerate(tested)])
    assert [claim.p_holm for claim in tested] == pytest.approx(np.minimum(corrected, 1).tolist())
    expected = ["supported" if p < 0.05 else "undecided" for p in corrected]  # all differences are as claimed
    assert [claim.verdict for claim in tested] == expected and set(expected) == {"supported", "undecided"}
    report = write_report(plan, tmp_path)
    for claim in tested:
        assert f"| {claim.verdict} | {claim.test} |" in report
        assert ("this study would have found" in claim.sentence) == (claim.verdict == "undecided")
    for name in ("report.md", "report.html"):
        assert (tmp_path / name).read_text().count("with 3 seeds this study would have found") >= 1


def test_one_seed_is_resampled_with_the_same_segments_for_all_systems(tmp_path):
    _, results, texts = studied(tmp_path, [1])
    path = tmp_path / results["claims"][0]["comparison"]
    systems = {system["name"]: system for system in json.loads(path.read_text())["systems"]}
    picks = np.random.default_rng(12345).choice(len(GOLD), size=(500, len(GOLD)), replace=True)
    for (method, noise), (lines,) in texts.items():
        found = systems[f"method={method},noise={noise}"]
        assert found["scores"] == [pytest.approx(bleu(lines))]
        assert found["resampled"][:8] == pytest.approx([bleu(lines, rows) for rows in picks[:8]], abs=1e-5)
    drop = read_claim_results(results)[0]
    drawn = {name: np.array(system["resampled"]) for name, system in systems.items()}
    lost = {one: drawn[f"method={one},noise=0"] - drawn[f"method={one},noise=30"] for one in ("word", "seq")}
    gain = lost["seq"] - lost["word"]
    assert drop.p == pytest.approx(2 * ((gain >= 0).sum() + 1) / 501)
    assert drop.interval == pytest.approx(np.quantile(gain, [0.025, 0.975]).tolist())
    better = read_claim_results(results)[4]  # by approximate randomisation, with the interval of the bootstrap
    assert better.test == "approximate randomisation over 40 segments"
    apart = drawn["method=seq,noise=30"] - drawn["method=word,noise=30"]
    low, high = better.interval  # 1,000 resamples, of which these 500 are the first
    assert low == pytest.approx(np.quantile(apart, 0.025), abs=0.6)
    assert high == pytest.approx(np.quantile(apart, 0.975), abs=0.6)


def test_a_test_set_and_its_noised_form_share_segments_but_not_sources(tmp_path, capsys):
    clean = write_result(tmp_path / "a.json", translations(GOLD, 0.2, 1), GOLD)
    noised = write_result(tmp_path / "b.json", translations(GOLD, 0.4, 2), GOLD, sources_sha256="of other sources")
    words = ["compare", "--system", "clean", clean, "--system", "noised", noised, "--paired-bs-n", "5"]
    assert main([*words, "--out", str(tmp_path / "c.json")]) == 2
    assert "was translated from another source text" in capsys.readouterr().err
    assert main([*words, "--scores-only", "--out", str(tmp_path / "c.json")]) == 0
    assert "clean: " in capsys.readouterr().out
    assert len(json.loads((tmp_path / "c.json").read_text())["systems"][1]["resampled"]) == 5


@pytest.mark.parametrize(
    ("seeds", "words", "said"),
    [
        (([1, 2], [1, 3]), [], "so all systems must have the same seeds"),
        (([1, 1], [1, 1]), [], "each run needs a seed of its own"),
        (([1], [1]), ["--fail-unless-better"], "has no effect with --scores-only"),
    ],
)
def test_scores_that_cannot_be_paired_are_one_error(tmp_path, capsys, seeds, words, said):
    for system, runs in enumerate(seeds):
        words = [*words, "--system", str(system)]
        for number, seed in enumerate(runs):
            path = tmp_path / f"{system}{number}.json"
            words.append(write_result(path, translations(GOLD, 0.2, system + number), GOLD, seed=seed))
    assert main(["compare", *words, "--scores-only", "--out", str(tmp_path / "out.json")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out.json").exists()
    assert main(["compare", *words, "--scores-only"]) == 2 and "--scores-only needs" in capsys.readouterr().err
