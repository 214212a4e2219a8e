"""`evaluate --backend ctranslate2`: the same translations and scores as fairseq's, or one error with the reason."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from fairseq.data import Dictionary
from helpers import losses_of_training, write_variant
from study_helpers import CONVOLUTION, LSTM, SHORT, spec_on
from test_adaptive import ADAPTIVE, CROSS_ENTROPY
from test_study_plan import plan_of

from fairseq_kd.artifacts.derived import SideWriter
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation import evaluate_checkpoint
from fairseq_kd.evaluation.backend import RankedAsByFairseq, excess
from fairseq_kd.inference.opening import open_data
from fairseq_kd.quickstart.recipe import Recipe, load_recipe
from fairseq_kd.quickstart.run import _score, check_trainings
from fairseq_kd.sequence.backend import FairseqBackend
from fairseq_kd.sequence.decode_options import Hypothesis
from fairseq_kd.study.check import open_plan
from fairseq_kd.study.maker import made_by

ctranslate2 = pytest.importorskip("ctranslate2")
BACKENDS = ("fairseq", "ctranslate2")
SEARCH = {"cpu": True, "max_len_b": 100}
NOT_THE_SAME = ("efficiency", "seconds", "decoding")
WORDS = {"none": [], "fairseq": ["--backend", "fairseq"], "ctranslate2": ["--backend", "ctranslate2"]}
SETTINGS = {name: {"backend": name} if words else {} for name, words in WORDS.items()}


@pytest.fixture(scope="module")
def students(data_bin, teacher, tmp_path_factory):
    """The trained teacher, and two checkpoints near it."""
    folder = tmp_path_factory.mktemp("students")
    for number, noise in enumerate((0.05, 0.3), 1):
        write_variant(teacher, folder / f"{number}.pt", noise, number)
    return [teacher, folder / "1.pt", folder / "2.pt"]


@pytest.fixture(scope="module")
def with_an_empty_source(data_bin, tmp_path_factory):
    """The test set as fairseq-preprocess writes it, with an empty source between its sentences; the references."""
    folder = tmp_path_factory.mktemp("empty") / "data"
    folder.mkdir()
    subset = open_data(data_bin, ("qaa", "qab"), "test").dataset("test")
    for lang, side in (("qaa", subset.src), ("qab", subset.tgt)):
        (folder / f"dict.{lang}.txt").write_bytes((data_bin / f"dict.{lang}.txt").read_bytes())
        writer = SideWriter(folder, f"test.qaa-qab.{lang}", Dictionary.load(str(folder / f"dict.{lang}.txt")))
        for number in range(len(subset)):
            if number == 7:
                writer.add(np.array([2] if lang == "qaa" else [40, 2]))
            writer.add(side[number].numpy())
        writer.close()
    lines = (data_bin / "raw" / "test.qab").read_text().splitlines()
    references = folder / "references"
    references.write_text("\n".join([*lines[:7], "x", *lines[7:]]) + "\n")
    return folder, references


@pytest.mark.parametrize("search", [{}, {"beam": 1}, {"beam": 3, "lenpen": 2.0}], ids=["beam 5", "greedy", "lenpen 2"])
def test_both_backends_give_the_same_translations_and_scores(with_an_empty_source, students, search):
    folder, references = with_an_empty_source
    given = {"reference": references, "post_process": "sentencepiece", **SEARCH, **search}
    different = set()
    for checkpoint in students:
        ours, theirs = (evaluate_checkpoint(folder, checkpoint, backend=name, **given) for name in BACKENDS)
        assert len(theirs["hypotheses"]) == 31 and theirs["hypotheses"][7] == ""
        different |= set(theirs["hypotheses"])
        assert theirs["decoding"] == ours["decoding"] | {"backend": "ctranslate2", "max_tokens": 1024}
        assert [name for name in ours if ours[name] != theirs[name] and name not in NOT_THE_SAME] == []
    assert len(different) >= 10, "the models always give the same few translations"


def test_the_mass_of_an_empty_translation_is_taken_out_before_hypotheses_are_ranked():
    """p(EOS) = 0.5, log 2 = 0.693. One token: -1.0 - 0.693 / 2 = -1.35; three tokens: -1.1 - 0.693 / 4 = -1.27."""
    ranked = RankedAsByFairseq.__new__(RankedAsByFairseq)
    short, long = Hypothesis(np.zeros(1), -1.0), Hypothesis(np.zeros(3), -1.1)
    ranked.settings = {"lenpen": 1.0}
    assert excess(math.log(0.5)) == pytest.approx(math.log(2))
    assert ranked._best([short, long], 0.0) is short and ranked._best([short, long], math.log(2)) is long
    ranked.settings = {"lenpen": 0.0}  # the sums of the log-probabilities, which contain it alike
    assert ranked._best([short, long], math.log(2)) is short
    assert excess(0.0) == pytest.approx(24 * math.log(2)), "p = 1 to float32"


def test_all_that_is_decoded_is_decoded_by_the_backend(data_bin, students, monkeypatch):
    """The noised sources, the teacher and the timed sentences too. The measures under gold prefixes stay equal."""
    teacher, student, other = students
    given = {"bins": 4, "teacher": teacher, "noise_levels": [0, 30], "resamples": 20, "latency": 2, **SEARCH}
    ours = evaluate_checkpoint(data_bin, student, **given)
    monkeypatch.setattr(FairseqBackend, "translate", None)  # would fail if it were called
    theirs = evaluate_checkpoint(data_bin, student, backend="ctranslate2", workers=2, **given)
    assert [name for name in ours if ours[name] != theirs[name]] == [
        *("efficiency", "latency", "seconds", "decoding", "threads"),
    ]
    assert theirs["threads"] == 2 and theirs["latency"]["sentences"] == 2
    assert theirs["agreement"]["teacher_hypotheses"] != theirs["hypotheses"]
    assert theirs["versions"]["ctranslate2"] == ctranslate2.__version__
    ensemble = f"{teacher}:{other}"
    with pytest.raises(KDError, match="backend ctranslate2 cannot do this: it has no ensembles"):
        evaluate_checkpoint(data_bin, student, backend="ctranslate2", teacher=ensemble, **SEARCH)


def test_results_of_both_backends_are_compared_and_printed(data_bin, teacher, tmp_path, capsys):
    paths = [str(tmp_path / f"{name}.json") for name in BACKENDS]
    for name, path in zip(BACKENDS, paths, strict=True):
        words = ["--backend", name, "--out", path, "--confidence-n", "0", "--cpu", "--beam", "1"]
        assert main(["evaluate", str(data_bin), "--checkpoint", str(teacher), *words]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" on cpu, ") == printed.count(" on cpu by ctranslate2, ") == 1
    assert "backend" not in json.loads(Path(paths[0]).read_text())["decoding"]
    assert main(["compare", *paths]) == 0
    assert "no difference shown" in capsys.readouterr().out


@pytest.fixture(scope="module")
def gated(data_bin, tmp_path_factory):
    """A student with gates, which CTranslate2 cannot run."""
    path = tmp_path_factory.mktemp("gated") / "gated.pt"
    _, trainer = losses_of_training(data_bin, *ADAPTIVE, *CROSS_ENTROPY, updates=1)
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}, "val_loss": 1.0})
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backend", "ctranslate2"], "gated.pt cannot be converted (CTranslate2 cannot express gates: cut them out"),
        (["--backend", "ctranslate2", "--fp16"], "--fp16 has no effect with --backend ctranslate2"),
        (["--backend", "ctranslate2", "--workers", "0"], "--workers 0: must be at least 1"),
        (["--workers", "2"], "--workers is for --backend ctranslate2"),
    ],
)
def test_what_ctranslate2_cannot_do_is_one_error_before_decoding(data_bin, gated, tmp_path, capsys, words, message):
    out = tmp_path / "r.json"
    assert main(["evaluate", str(data_bin), "--checkpoint", str(gated), "--cpu", "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("fairseq_kd: error: ") == 1 and "decoding" not in error
    assert not out.exists()


def test_without_ctranslate2_the_error_says_what_to_install(data_bin, teacher, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(KDError, match=r"ctranslate2 is not installed \(pip install 'fairseq_kd\[fast\]'\)"):
        evaluate_checkpoint(data_bin, teacher, backend="ctranslate2")


def test_a_recipe_names_the_backend_and_a_result_of_the_other_backend_is_not_kept(data_bin, teacher, tmp_path):
    def score(**given):
        recipe = Recipe("mine.yaml", {"target-lang": "qab"}, {}, {}, {}, {}, {"beam": 1, **given})
        return _score(tmp_path / "result.json", data_bin, teacher, recipe, cpu=True)

    by_fairseq = score()
    assert score() == score(backend="fairseq") == by_fairseq, "kept, with the same seconds"
    by_ctranslate2 = score(backend="ctranslate2")
    assert by_ctranslate2["decoding"]["backend"] == "ctranslate2" and score(backend="ctranslate2") == by_ctranslate2
    with pytest.raises(KDError, match="mine.yaml: evaluate: --backend marian: must be one of fairseq, ctranslate2"):
        score(backend="marian")


def test_a_recipe_whose_models_ctranslate2_cannot_run_is_refused_before_the_data_are_made(tmp_path):
    recipe = load_recipe(ROOT / "configs" / "quickstart" / "synthetic.yaml")
    recipe.common["arch"] = "kd_adaptive"
    check_trainings(recipe, torch.device("cpu"))
    recipe.evaluate["backend"] = "ctranslate2"
    with pytest.raises(KDError, match=r"synthetic.yaml: evaluate: CTranslate2 cannot express gates"):
        check_trainings(recipe, torch.device("cpu"))


def test_a_study_has_other_stages_for_ctranslate2_alone_and_its_version_counts_there(tmp_path):
    stages = {name: plan_of(tmp_path, evaluate=SHORT | given).stages for name, given in SETTINGS.items()}
    assert stages["none"] == stages["fairseq"], "the default is not a part of the key"
    differ = stages["none"].keys() ^ stages["ctranslate2"].keys()
    assert differ and {name.partition("-")[0] for name in differ} == {"evaluate"}
    versions = {"torch": "2.13.0", "ctranslate2": "4.8.5"}
    by = {name: made_by("evaluate", versions, ["fairseq-kd", *words]) for name, words in WORDS.items()}
    assert by["none"] == by["fairseq"] and "ctranslate2" not in by["none"]
    assert by["ctranslate2"] == by["none"] | {"ctranslate2": "4.8.5"}


def test_a_study_is_refused_before_it_runs_when_ctranslate2_cannot_run_a_model(data_bin, teacher, gated, tmp_path):
    backend = SHORT | {"backend": "ctranslate2"}

    def planned(**changes):
        return open_plan(str(spec_on(data_bin, teacher, tmp_path, evaluate=backend, **changes)), tmp_path / "work")

    words = [stage.command for stage in planned().stages.values() if stage.kind == "evaluate"]
    assert all(command[command.index("--backend") + 1] == "ctranslate2" for command in words) and words
    for name, model in (("LSTMModel", LSTM), ("FConvModel", CONVOLUTION)):
        with pytest.raises(KDError, match=f"mine.yaml: backend in evaluate: CTranslate2 cannot express a {name}"):
            planned(teacher=None, factors={"method": ["ce"], "model": {"other": model}})
    with pytest.raises(KDError, match="CTranslate2 cannot express gates"):
        planned(teacher=None, factors={"method": ["ce"], "arch": ["kd_adaptive"]})
    with pytest.raises(KDError, match="CTranslate2 cannot express gates"):
        planned(teacher={"checkpoint": str(gated)})
    planned(teacher=None, factors={"method": ["ce"], "arch": ["kd_adaptive"], "compact": [True]})
