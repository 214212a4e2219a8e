"""What `fairseq-kd evaluate` measures beside the scores, against fairseq and against slower ways."""

import json
import math
import mmap
import re
import shutil

import numpy as np
import pytest
import sacrebleu
import torch
from helpers import batch

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.entry import text_files
from fairseq_kd.corpus.prepare import prepare
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.text import write_lines
from fairseq_kd.evaluation.calibration import observe
from fairseq_kd.evaluation.efficiency import Meter, latency
from fairseq_kd.evaluation.robustness import NoiseLevels, Robustness, binarised, relative_drop
from fairseq_kd.evaluation.segments import read_segments
from fairseq_kd.evaluation.system import TranslateOptions, open_system
from fairseq_kd.inference.opening import gold_batches
from fairseq_kd.scoring.score import Scorer

SEARCH = ("--max-len-b", "20", "--beam", "2")


def evaluate(*words) -> int:
    return main(["evaluate", "--cpu", *map(str, words), *SEARCH])


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    """A checkpoint of the teacher's architecture with other weights."""
    state = torch.load(teacher)
    torch.manual_seed(0)
    for name, value in state["model"].items():
        if value.is_floating_point() and "embed" not in name and "output_projection" not in name:
            value.add_(0.3 * torch.randn_like(value))
    path = tmp_path_factory.mktemp("student") / "student.pt"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def result(data_bin, teacher, student, tmp_path_factory):
    """Of the student, with everything that can be asked for."""
    folder = tmp_path_factory.mktemp("result")
    words = ["--calibration", "--bins", 5, "--diagram", folder / "a.svg", "--teacher", teacher, "--latency", 4]
    words += ["--noise-levels", 0, 30, "--noise", "substitute", "--confidence-n", 50]
    assert evaluate(data_bin, "--checkpoint", student, *words, "--out", folder / "a.json") == 0
    assert (folder / "a.svg").is_file()
    return json.loads((folder / "a.json").read_text())


def open_student(data_bin, student):
    return open_system(student, data_bin, "test", TranslateOptions(cpu=True, beam=2, max_len_b=20), 30)


def lprobs_of_each_sentence(system):
    """Yields (log-probabilities (T, V), gold (T,)) by the model's plain forward pass, one sentence a batch."""
    for number in range(len(system.dataset)):
        sample = batch(system.task, [number], "test")
        with torch.no_grad():
            net_output = system.model(**sample["net_input"])
            lprobs = system.model.get_normalized_probs(net_output, log_probs=True)[0]
        yield lprobs, sample["target"][0]  # outside: two such generators in turn would leave torch without gradients


def test_calibration_is_that_of_the_models_plain_forward_pass(data_bin, student, result):
    lprobs, gold = map(torch.cat, zip(*lprobs_of_each_sentence(open_student(data_bin, student)), strict=True))
    found = result["calibration"]
    assert found["tokens"] == len(gold) == sum(point["tokens"] for point in found["bins"])
    assert len(found["bins"]) == 5
    assert found["accuracy"] == pytest.approx((lprobs.argmax(-1) == gold).double().mean().item(), abs=1e-9)
    nll = torch.nn.functional.nll_loss(lprobs.double(), gold).item()
    assert found["nll_bits"] == pytest.approx(nll / math.log(2), rel=1e-5)
    one_hot = torch.nn.functional.one_hot(gold, lprobs.size(1))
    assert found["brier"] == pytest.approx((lprobs.exp() - one_hot).square().sum(-1).mean().item(), rel=1e-5)


def test_nll_is_the_loss_that_fairseq_reports(data_bin, student, result):
    from fairseq.criterions.cross_entropy import CrossEntropyCriterion

    system = open_student(data_bin, student)
    criterion = CrossEntropyCriterion(system.task, sentence_avg=False)
    loss, tokens, _ = criterion(system.model, batch(system.task, range(30), "test"))
    assert result["calibration"]["nll_bits"] == pytest.approx(loss.item() / tokens / math.log(2), rel=1e-5)


def test_batches_of_gold_prefixes_hold_every_token_once(data_bin, student, monkeypatch):
    system = open_student(data_bin, student)
    found = []
    for max_tokens in (10, 4000):
        monkeypatch.setattr("fairseq_kd.inference.opening.MAX_TOKENS", max_tokens)
        pad = system.task.target_dictionary.pad()
        outcomes = observe(system.frozen, gold_batches(system.dataset, pad, torch.device("cpu"), "test"))
        found.append(np.sort(outcomes.gold_lprobs))
    assert len(found[0]) == int(np.sum(system.dataset.tgt_sizes))
    assert np.allclose(found[0], found[1], atol=1e-5)


def test_agreement_is_that_of_both_plain_forward_passes(data_bin, teacher, student, result):
    both = [open_student(data_bin, path) for path in (student, teacher)]
    pairs = zip(*map(lprobs_of_each_sentence, both), strict=True)
    same = torch.cat([ours.argmax(-1) == theirs.argmax(-1) for (ours, _), (theirs, _) in pairs])
    assert 0 < same.sum() < len(same), "the two must differ for this test to say anything"
    assert result["agreement"]["tokens"] == len(same)
    assert result["agreement"]["top1"] == pytest.approx(same.double().mean().item(), abs=1e-9)


def test_the_teachers_translations_are_those_of_evaluating_it(data_bin, teacher, result, tmp_path):
    assert evaluate(data_bin, "--checkpoint", teacher, "--out", tmp_path / "t.json", "--confidence-n", 0) == 0
    own = json.loads((tmp_path / "t.json").read_text())
    assert result["agreement"]["teacher_hypotheses"] == own["hypotheses"]
    assert result["agreement"]["teacher"]["sha256"] == own["checkpoint_sha256"]
    assert "ci" not in own["bleu"] and "ci" in result["agreement"]["bleu"]
    expected = sacrebleu.corpus_bleu(result["hypotheses"], [own["hypotheses"]])
    assert result["agreement"]["bleu"]["verbose"] == str(expected)


def test_a_model_agrees_with_itself(data_bin, teacher, tmp_path):
    words = ("--teacher", teacher, "--out", tmp_path / "self.json", "--confidence-n", 0)
    assert evaluate(data_bin, "--checkpoint", teacher, *words) == 0
    found = json.loads((tmp_path / "self.json").read_text())
    assert found["agreement"]["top1"] == 1
    assert found["agreement"]["teacher_hypotheses"] == found["hypotheses"]


def test_a_teacher_without_the_dictionaries_of_the_data_is_refused(data_bin, teacher, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for lang in ("qaa", "qab"):
        lines = (data_bin / f"dict.{lang}.txt").read_text().splitlines()
        (other / f"dict.{lang}.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    assert evaluate(data_bin, "--checkpoint", teacher, "--teacher", teacher, "--teacher-data", other) == 2
    assert "the first difference is at index 4" in capsys.readouterr().err


def test_latency_and_operations(data_bin, student, result, capsys):
    found = result["latency"]
    assert found["sentences"] == 4 and 0 < found["p50_ms"] <= found["p95_ms"]
    efficiency = result["efficiency"]
    model = "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --decoder-embed-dim 16 --share-all-embeddings"
    model += " --encoder-ffn-embed-dim 32 --decoder-ffn-embed-dim 32 --encoder-attention-heads 2"
    model += " --decoder-attention-heads 2"
    length = str(efficiency["operations_length"])
    words = ["count", "--arch", "transformer", "--data", str(data_bin), "--length", length, *model.split()]
    assert main(words) == 0
    printed = capsys.readouterr().out
    counted = re.search(r"operations per target token +([\d,]+)", printed)[1].replace(",", "")
    assert efficiency["operations_per_token"] == float(counted)
    system = open_student(data_bin, student)
    assert efficiency["operations_length"] == round(float(np.mean(system.dataset.src_sizes)))


def test_latency_is_in_milliseconds_with_the_percentiles_of_numpy(data_bin, student, monkeypatch):
    clock = iter(np.cumsum([0, 0.001, 0, 0.002, 0, 0.003, 0, 0.010]))  # begin and end of four sentences
    monkeypatch.setattr("fairseq_kd.evaluation.efficiency.time.perf_counter", lambda: next(clock))
    found = latency(open_student(data_bin, student), 4)
    expected = {"p50_ms": 2.5, "p95_ms": 3 + 0.85 * 7, "mean_ms": 4.0}  # the 95th of 100 lies at 2.85 of 0 to 3
    assert found == {"sentences": 4} | {name: pytest.approx(value) for name, value in expected.items()}


def test_the_meter_sees_the_memory_of_its_block_alone():
    def peak(megabytes):
        # not malloc, which may have kept freed memory
        with Meter(torch.device("cpu")) as meter, mmap.mmap(-1, megabytes * 10**6) as memory:
            for page in range(0, len(memory), mmap.PAGESIZE):
                memory[page] = 1
        return meter.peak_rss_bytes / 1e6

    peak(300)
    before = peak(1)  # a peak of the whole process would still hold the 300 MB
    assert 250 < peak(300) - before < 400


def test_translations_at_a_level_are_those_of_a_noised_data_bin(corpus, data_bin, student, tmp_path, monkeypatch):
    sources, levels = (corpus / "test.qaa").read_text().splitlines(), NoiseLevels((50.0,), "substitute")
    noised, share = levels.noise(sources, 50.0)
    pairs = [pair for lines in zip(sources, noised, strict=True) for pair in zip(*map(str.split, lines), strict=True)]
    assert sum(before != after for before, after in pairs) / len(pairs) == pytest.approx(0.5, abs=0.15)
    assert share == pytest.approx(100 * sum(before != after for before, after in pairs) / len(pairs))
    raw = tmp_path / "raw"
    shutil.copytree(corpus, raw)
    write_lines(raw / "test.qaa", noised)
    options = PrepareOptions(like=str(data_bin))
    prepare("text", text_files(raw, "qaa", "qab"), "qaa", "qab", tmp_path / "noised", options, say=lambda line: None)
    words = ("--checkpoint", student, "--confidence-n", 0, "--out", tmp_path / "noised.json")
    assert evaluate(tmp_path / "noised", *words) == 0
    there = json.loads((tmp_path / "noised.json").read_text())

    scored = []
    monkeypatch.setattr(
        "fairseq_kd.scoring.score.Scorer.score_by",
        lambda scorer, metric, hypotheses, references, resamples: (
            scored.append((hypotheses, references)) or {"score": 30.0}
        ),
    )
    system = open_student(data_bin, student)
    (row,) = Robustness(levels, system, read_segments(data_bin, "test"), Scorer()).run({"score": 40.0}, 0)["levels"]
    assert scored == [(there["hypotheses"], there["references"])]
    assert row["sources_sha256"] == there["sources_sha256"]
    assert row["relative_drop"] == pytest.approx(0.25)


def test_the_level_0_is_the_subset_as_it_is(result):
    clean, noised = result["robustness"]["levels"]
    assert (clean["percent"], noised["percent"]) == (0, 30)
    assert clean["bleu"] == result["bleu"] and clean["sources_sha256"] == result["sources_sha256"]
    assert noised["bleu"]["verbose"] != clean["bleu"]["verbose"]
    assert noised["sources_sha256"] != clean["sources_sha256"]


def test_sources_are_binarised_as_the_data_bin_was(data_bin, student):
    system = open_student(data_bin, student)
    from fairseq_kd.corpus.subword import load_subword_models

    encode = load_subword_models(data_bin, "qaa", "qab")["qaa"].encode
    lines = (data_bin / "raw" / "test.qaa").read_text().splitlines()
    dataset = binarised(system, map(encode, lines))
    assert len(dataset) == 30
    for number in range(30):
        assert dataset[number]["source"].tolist() == system.dataset[number]["source"].tolist()


def test_relative_drop_worked_by_hand():
    assert relative_drop(30.0, 40.0) == pytest.approx(0.25)
    assert relative_drop(44.0, 40.0) == pytest.approx(-0.1)
    assert relative_drop(0.0, 0.0) is None


def test_a_mix_is_a_third_of_each():
    lines = ["a b c d e f g h i j k l"] * 500
    noised, _ = NoiseLevels((60.0,), "mix").noise(lines, 60.0)
    deleted = 1 - sum(len(line.split()) for line in noised) / 6000
    assert deleted == pytest.approx(0.2, abs=0.03)
    assert NoiseLevels((0.0,)).noise(lines, 0.0) == (lines, 0.0)


def test_noise_levels_need_text_and_subword_model(data_bin, teacher, tmp_path, capsys):
    plain = tmp_path / "plain"
    shutil.copytree(data_bin, plain, ignore=shutil.ignore_patterns("manifest.json", "raw", "subword"))
    words = ("--reference", data_bin / "raw" / "test.qab", "--post-process", "sentencepiece", "--noise-levels", "10")
    assert evaluate(plain, "--checkpoint", teacher, *words) == 2
    assert "keeps no source text of 'test'" in capsys.readouterr().err


def test_a_model_whose_training_diverged_is_refused(data_bin, teacher, tmp_path, capsys):
    state = torch.load(teacher)
    state["model"]["decoder.layers.0.fc2.bias"].fill_(float("nan"))
    torch.save(state, tmp_path / "diverged.pt")
    assert evaluate(data_bin, "--checkpoint", tmp_path / "diverged.pt") == 2
    assert "are not finite: its training diverged" in capsys.readouterr().err


def test_probabilities_that_are_no_numbers_have_no_calibration(data_bin, student):
    system = open_student(data_bin, student)
    system.model.decoder.layers[0].fc2.bias.fill_(float("nan"))  # as an overflow would have it
    pad = system.task.target_dictionary.pad()
    with pytest.raises(KDError, match="gives probabilities that are not finite"):
        observe(system.frozen, gold_batches(system.dataset, pad, torch.device("cpu"), "test"))


def test_targets_beyond_the_positions_of_the_model_are_refused_before_decoding(data_bin, teacher, tmp_path, capsys):
    state = torch.load(teacher)
    state["cfg"]["model"].max_target_positions = 20
    torch.save(state, tmp_path / "short.pt")
    assert evaluate(data_bin, "--checkpoint", tmp_path / "short.pt", "--calibration") == 2
    error = capsys.readouterr().err
    assert "target tokens, but the model has positions for 20" in error and "decoding" not in error
