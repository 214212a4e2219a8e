import json
import subprocess
import sys

import pytest
from result_helpers import references, translations

from fairseq_kd.core.errors import KDError
from fairseq_kd.scoring.score import Scorer, check_seed

GOLD = references()
GUESS = translations(GOLD, 0.3, seed=1)


@pytest.fixture
def files(tmp_path):
    for name, lines in (("gold", GOLD), ("guess", GUESS)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize("seed", ["12345", "7"])
def test_scores_and_intervals_are_those_of_the_sacrebleu_command(files, monkeypatch, seed):
    monkeypatch.setenv("SACREBLEU_SEED", seed)
    words = [sys.executable, "-m", "sacrebleu", "gold", "-i", "guess", "-m", "bleu", "chrf", "ter", "-w", "6"]
    words += ["--confidence", "--confidence-n", "150"]
    printed = subprocess.run(words, cwd=files, capture_output=True, text=True, check=True).stdout
    ours = Scorer().score(GUESS, GOLD, resamples=150)
    for theirs in json.loads(printed):
        found = ours[{"BLEU": "bleu", "chrF2": "chrf", "TER": "ter"}[theirs["name"]]]
        assert found["score"] == pytest.approx(theirs["score"], abs=1e-6)
        assert found["mean"] == pytest.approx(theirs["confidence_mean"], abs=1e-6)
        assert found["ci"] == pytest.approx(theirs["confidence_var"], abs=1e-6) and found["ci"] > 0
        assert found["signature"] == f"{theirs['name']}|{theirs['signature']}"
        assert f"|bs:150|seed:{seed}|" in found["signature"]


def test_without_resamples_there_is_no_interval():
    found = Scorer().score(GUESS, GOLD)
    assert set(found) == {"bleu", "chrf", "ter"}
    assert all(set(entry) == {"score", "signature", "verbose"} for entry in found.values())
    assert "bs:" not in found["bleu"]["signature"]


def test_a_perfect_translation_has_bleu_100_and_ter_0():
    found = Scorer().score(GOLD, GOLD, resamples=20)
    assert found["bleu"]["score"] == pytest.approx(100) and found["ter"]["score"] == 0
    assert found["bleu"]["ci"] == pytest.approx(0, abs=1e-9)


def test_translations_of_which_most_share_nothing_with_the_references_have_intervals():
    """Some resamples hold no match at all: their chrF is 0, the chrF of the others is not."""
    found = Scorer().score(["", "x y", ""], ["a b", "x y", "c d"], resamples=50)
    assert 0 < found["chrf"]["mean"] < 100 and found["chrf"]["ci"] > 0


def test_a_seed_that_sacrebleu_would_not_understand_is_refused(monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "monday")
    with pytest.raises(KDError, match="SACREBLEU_SEED is 'monday'"):
        check_seed()
