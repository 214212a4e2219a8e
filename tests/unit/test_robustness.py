"""`evaluate --noise-levels` says how much noise there really was, and nothing about noise that there was not."""

import json

import pytest
from unspaced_helpers import sentences, write_checkpoint, write_corpus

from fairseq_kd.cli.main import main


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """evaluated(source lines, options...): exit status of a model that says the references, so that BLEU is 100."""
    from fairseq_kd.evaluation.system import System

    def evaluated(sources, *words):
        write_corpus(tmp_path, "en", "qaa")
        for subset in ("train", "valid", "test"):
            count = len((tmp_path / f"{subset}.en").read_text().splitlines())
            lines = [sources[number % len(sources)] for number in range(count)]
            (tmp_path / f"{subset}.qaa").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        prepare = ["prepare", "text", "--raw", tmp_path, "-s", "qaa", "-t", "en", "--subword", "none"]
        assert main([*map(str, prepare), "--out", str(tmp_path / "data")]) == 0
        write_checkpoint(tmp_path / "data", tmp_path / "model.pt")
        references = (tmp_path / "test.en").read_text().splitlines()
        monkeypatch.setattr(System, "translate", lambda *arguments: references)
        command = ["evaluate", tmp_path / "data", "--checkpoint", tmp_path / "model.pt", "--cpu", "--confidence-n", 0]
        return main([*map(str, command), *map(str, words), "--out", str(tmp_path / "result.json")])

    evaluated.levels = lambda: json.loads((tmp_path / "result.json").read_text())["robustness"]["levels"]
    return evaluated


def test_unchanged_input_has_no_drop(evaluated, capsys):
    """No sentence loses its only word."""
    assert evaluated(["house", "dog"], "--noise-levels", 0, 10, "--noise", "delete") == 0
    clean, noised = evaluated.levels()
    assert noised["sources_sha256"] == clean["sources_sha256"]
    assert noised["relative_drop"] is None
    assert (clean["realised"], noised["realised"]) == (0, 0)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("      10 %"))
    assert line.split() == ["10", "%", "0.00", "%", "100.00", "-", "-", "no", "word", "was", "changed"]


def test_the_realised_rate_is_printed(evaluated, capsys):
    """Of two words one stays, so at 100 % half of the words are deleted."""
    assert evaluated(["big house", "small dog"], "--noise-levels", 100, "--noise", "delete") == 0
    (noised,) = evaluated.levels()
    assert noised["realised"] == pytest.approx(50) and noised["relative_drop"] == pytest.approx(0)
    assert "     100 %   50.00 %  100.00" in capsys.readouterr().out


def test_a_source_without_spaces_has_no_words_to_noise(evaluated, capsys):
    assert evaluated(sentences()[1], "--noise-levels", 10) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--noise-levels changes words between spaces: 8 of 8 source sentences are in a script without" in error
    assert "fairseq-kd noise --word-tokenizer char" in error
