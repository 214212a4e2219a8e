import hashlib
import json
import shutil

import pytest
import sacrebleu
import torch
from conftest import run_fairseq

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.cli.main import main
from fairseq_kd.corpus.subword import load_decoder
from fairseq_kd.evaluation.system import System, open_system


def evaluate(*words):
    return main(["evaluate", "--cpu", *map(str, words)])


def test_every_hypothesis_equals_that_of_fairseq_generate_and_the_score_that_of_sacrebleu(
    data_bin, teacher, tmp_path, capsys
):
    out = tmp_path / "result.json"
    assert evaluate(data_bin, "--checkpoint", teacher, "--out", out, "--max-len-b", 20, "--lenpen", 0.8) == 0
    printed = capsys.readouterr().out
    result = json.loads(out.read_text())
    generate = run_fairseq(
        "generate",
        data_bin,
        *("--path", teacher, "--cpu", "--required-batch-size-multiple", "1", "--beam", "5"),
        *("--max-len-b", "20", "--lenpen", "0.8"),
    )
    lines = [line.split("\t") for line in generate.stdout.splitlines() if line.startswith("H-")]
    lines.sort(key=lambda line: int(line[0][2:]))
    assert result["hypotheses"] == [load_decoder("sentencepiece")(line[2]) for line in lines]
    assert result["sentences"] == 30

    references = (data_bin / "raw" / "test.qab").read_text().splitlines()
    expected = sacrebleu.corpus_bleu(result["hypotheses"], [references])
    assert result["bleu"]["score"] == pytest.approx(expected.score, abs=1e-9)
    assert result["bleu"]["signature"].startswith(
        "BLEU|nrefs:1|bs:1000|seed:12345|case:mixed|eff:no|tok:13a|smooth:exp|"
    )
    assert result["chrf"]["signature"].startswith("chrF2|nrefs:1") and result["chrf"]["ci"] > 0
    assert all(result[name]["signature"] in printed for name in ("bleu", "chrf", "ter"))
    assert result["references"] == references
    sources = (data_bin / "raw" / "test.qaa").read_bytes()
    assert result["sources_sha256"] == hashlib.sha256(sources).hexdigest()
    state = torch.load(teacher)
    shared = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight"}
    skipped = {"encoder.version", "decoder.version"} | shared - {"encoder.embed_tokens.weight"}
    counted = sum(
        value.numel() for name, value in state["model"].items() if name not in skipped and "_float_tensor" not in name
    )
    assert result["parameters"] == result["efficiency"]["parameters"] == counted
    assert result["efficiency"]["weights_bytes"] == 4 * counted
    assert result["efficiency"]["checkpoint_bytes"] == teacher.stat().st_size
    assert result["efficiency"]["peak_rss_bytes"] > 4 * counted
    assert result["checkpoint_sha256"] == sha256_file(teacher)
    assert result["updates"] == 40 and result["seed"] == 1 and result["dictionary_check"] == "place"


def test_batch_size_changes_no_hypothesis(data_bin, teacher, tmp_path):
    results = []
    for max_tokens in (100, 5000):
        out = tmp_path / f"{max_tokens}.json"
        words = (data_bin, "--checkpoint", teacher, "--out", out, "--max-len-b", 20, "--max-tokens", max_tokens)
        assert evaluate(*words) == 0
        results.append(json.loads(out.read_text())["hypotheses"])
    assert results[0] == results[1]


@pytest.fixture
def plain_copy(data_bin, tmp_path):
    """The same data-bin as fairseq-preprocess would have left it."""
    folder = tmp_path / "plain"
    shutil.copytree(data_bin, folder, ignore=shutil.ignore_patterns("manifest.json", "raw", "subword"))
    return folder


def test_a_plain_data_bin_needs_reference_and_post_process(plain_copy, data_bin, teacher, tmp_path, capsys):
    plain = plain_copy
    assert evaluate(plain, "--checkpoint", teacher) == 2
    assert "--reference FILE and --post-process" in capsys.readouterr().err
    reference = data_bin / "raw" / "test.qab"
    words = ("--reference", reference, "--post-process", "sentencepiece", "--max-len-b", 20)
    assert evaluate(plain, "--checkpoint", teacher, *words, "--out", tmp_path / "a.json") == 0
    assert evaluate(data_bin, "--checkpoint", teacher, "--max-len-b", 20, "--out", tmp_path / "b.json") == 0
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert a["bleu"] == b["bleu"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--subset", "nothing"], "has no subset 'nothing'"),
        (["--beam", "0"], "--beam 0"),
        (["--lenpen", "nan"], "--lenpen nan: must be a number"),
        (["--max-len-a", "-1"], "--max-len-a -1.0: must be a number from 0"),
        (["--max-len-a", "inf"], "--max-len-a inf: must be a number from 0"),
        (["--max-tokens", "5"], "give at least this number"),
        (["--trust-checkpoint", "other.pt"], "is not the --checkpoint"),
        (["--reference", "x"], "has its own references"),
        (["--out", "/dev/null/x.json"], "cannot write to"),
        (["--out", "/tmp"], "cannot write to /tmp: it is a folder"),
        (["--confidence-n", "1"], "--confidence-n 1: give 0 (no intervals)"),
        (["--bins", "5"], "--bins has no effect without --calibration"),
        (["--diagram", "a.png"], "--diagram has no effect without --calibration"),
        (["--calibration", "--bins", "0"], "--bins 0: must be at least 1"),
        (["--calibration", "--diagram", "a.txt"], "must end with .png"),
        (["--calibration", "--diagram", "/dev/null/a.png"], "cannot write to"),
        (["--latency", "0"], "--latency 0: must be at least 1"),
        (["--latency", "-1"], "--latency -1: must be at least 1"),
        (["--latency", "31"], "--latency 31: the subset has 30 sentences"),
        (["--teacher", "gone.pt"], "gone.pt"),
        (["--teacher", ""], "--teacher: give a checkpoint"),
        (["--teacher-data", "x"], "--teacher-data has no effect without --teacher"),
        (["--noise", "swap"], "have no effect without --noise-levels"),
        (["--noise-levels", "0", "101"], "--noise-levels 101: levels are percent"),
        (["--noise-levels", "nan"], "--noise-levels nan: levels are percent"),
        (["--noise-levels", "10", "10"], "a level is given twice"),
        (["--noise-levels", "10", "--noise-seed", "-1"], "--noise-seed -1: must be 0 or above"),
    ],
)
def test_bad_options_are_one_error_before_decoding(data_bin, teacher, capsys, words, message):
    assert evaluate(data_bin, "--checkpoint", teacher, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("fairseq_kd: error: ") == 1 and "decoding" not in error


def test_a_reference_that_was_changed_after_prepare_is_noticed(data_bin, teacher, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(data_bin, copy)
    with open(copy / "raw" / "test.qab", "r+") as file:
        file.write("X")
    assert evaluate(copy, "--checkpoint", teacher) == 2
    assert "was changed after it was made" in capsys.readouterr().err


def test_another_number_of_references_is_an_error_before_decoding(plain_copy, data_bin, teacher, tmp_path, capsys):
    (tmp_path / "short").write_text("one line\n")
    words = ("--reference", tmp_path / "short", "--post-process", "sentencepiece")
    assert evaluate(plain_copy, "--checkpoint", teacher, *words) == 2
    assert "1 references, but subset 'test'" in capsys.readouterr().err


def test_a_data_bin_of_other_dictionaries_is_refused(plain_copy, data_bin, teacher, capsys):
    other = plain_copy
    lines = (data_bin / "dict.qab.txt").read_text().splitlines()
    (other / "dict.qab.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    words = ("--reference", data_bin / "raw" / "test.qab", "--post-process", "sentencepiece")
    assert evaluate(other, "--checkpoint", teacher, *words) == 2
    error = capsys.readouterr().err
    assert "the target dictionaries of the checkpoint's training and DATA_BIN differ" in error
    assert "the first difference is at index 4" in error


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_refused(data_bin, teacher, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "checkpoint_last.pt"
    shutil.copyfile(teacher, copy)

    def open_and_replace(*arguments, **options):
        system = open_system(*arguments, **options)
        copy.write_bytes(copy.read_bytes() + b" ")
        return system

    monkeypatch.setattr("fairseq_kd.evaluation.ensemble.open_system", open_and_replace)
    assert evaluate(data_bin, "--checkpoint", copy) == 2
    assert "checkpoint_last.pt was changed or replaced while it was read" in capsys.readouterr().err


def test_a_checkpoint_may_go_while_it_is_decoded(data_bin, teacher, tmp_path, monkeypatch):
    copy = tmp_path / "checkpoint_last.pt"
    shutil.copyfile(teacher, copy)
    translate = System.translate
    monkeypatch.setattr(System, "translate", lambda system: [copy.unlink(), translate(system)][1])
    out = tmp_path / "a.json"
    assert evaluate(data_bin, "--checkpoint", copy, "--max-len-b", 20, "--out", out) == 0
    assert json.loads(out.read_text())["checkpoint_sha256"] == sha256_file(teacher)
