"""fairseq-kd export: a folder that ctranslate2 loads, what is said about it, and refused inputs."""

import importlib.util
import json
import shutil
import sys

import pytest
from helpers import losses_of_training
from test_adaptive import ADAPTIVE, CROSS_ENTROPY

from fairseq_kd.cli.main import main
from fairseq_kd.corpus.subword import load_subword_models
from fairseq_kd.scoring.score import Scorer
from fairseq_kd.sequence.decode import decode
from fairseq_kd.sequence.decode_options import DecodeOptions

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="needs ctranslate2")
SHORT = ("--max-len-b", 40, "--cpu")


def export(checkpoint, data_bin, out, *words):
    words = (checkpoint, "--to", "ctranslate2", "--data", data_bin, "--out", out, *SHORT, *words)
    return main(["export", *map(str, words)])


UNEVEN = (
    *("--encoder-ffn-widths", "21,32", "--decoder-ffn-widths", "32,9", "--encoder-self-heads", "3,4"),
    *("--decoder-self-heads", "0,4", "--decoder-cross-heads", "4,2", "--ffn-type", "glu"),
)
LAYERS = ("--encoder-layers", "2", "--decoder-layers", "2", "--encoder-attention-heads", "4", *CROSS_ENTROPY)


def trained(data_bin, path, *options, updates):
    """A checkpoint of a student with two layers on each side."""
    _, trainer = losses_of_training(data_bin, *options, *LAYERS, updates=updates)
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}, "val_loss": 1.0})
    return path


@pytest.fixture(scope="module")
def uneven(data_bin, tmp_path_factory):
    """A student as compact writes them: layers of different widths and numbers of heads, one without."""
    path = tmp_path_factory.mktemp("uneven") / "small.pt"
    heads = ("--decoder-attention-heads", "4")
    return trained(data_bin, path, "--arch", "kd_student", *UNEVEN, *heads, updates=150)


def test_an_uneven_student_is_exported_loaded_as_readme_says_and_scored(uneven, data_bin, tmp_path, capsys):
    out = tmp_path / "exported"
    assert export(uneven, data_bin, out) == 0
    printed = capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["sentences"] == 30 and manifest["same_translations"] >= 0.9  # all but near ties
    assert manifest["before"]["bytes"] == uneven.stat().st_size
    assert manifest["after"]["bytes"] == (out / "model.bin").stat().st_size

    import ctranslate2

    translator = ctranslate2.Translator(str(out))
    models = load_subword_models(data_bin, "qaa", "qab")
    assert (out / "subword" / manifest["subword"]["files"]["qaa"]).read_bytes() == (
        data_bin / "subword" / manifest["subword"]["files"]["qaa"]
    ).read_bytes()
    texts = {lang: (data_bin / "raw" / f"test.{lang}").read_text().splitlines() for lang in ("qaa", "qab")}
    sources = [models["qaa"].encode(line).split() for line in texts["qaa"]]
    answers = translator.translate_batch(sources, beam_size=5, max_decoding_length=40)
    lines = [models["qab"].decode(" ".join(answer.hypotheses[0])) for answer in answers]
    assert Scorer().score(lines, texts["qab"])["bleu"] == manifest["after"]["bleu"]
    assert manifest["after"]["bleu"]["signature"] in printed
    assert f"{manifest['after']['bytes']:,}" in printed and 'Translator("' in printed


def test_an_uneven_student_decodes_by_ctranslate2_as_by_fairseq(uneven, data_bin, tmp_path):
    found = {}
    for backend in ("fairseq", "ctranslate2"):
        options = DecodeOptions(cpu=True, subset="test", max_len_b=40, backend=backend)
        manifest = decode(data_bin, str(uneven), tmp_path / backend, options, say=lambda line: None)
        assert manifest["backend"] == backend
        rows = next((tmp_path / backend).glob("*.tsv")).read_text().splitlines()
        found[backend] = [line.split("\t")[5] for line in rows if line.split("\t")[2] == "*"]
    same = sum(ours == theirs for ours, theirs in zip(*found.values(), strict=True))
    assert len(found["fairseq"]) == 30 and same >= 27  # all but near ties


def test_quantized_and_complete_it_is_kept_and_other_inputs_are_refused(teacher, data_bin, tmp_path, capsys):
    out = tmp_path / "exported"
    assert export(teacher, data_bin, out, "--quantize", "int8") == 0
    first = capsys.readouterr().out
    assert "--quantize int8, computed in int8" in first
    stamp = (out / "model.bin").stat().st_mtime_ns
    assert export(teacher, data_bin, out, "--quantize", "int8") == 0
    assert capsys.readouterr().out == first and (out / "model.bin").stat().st_mtime_ns == stamp
    assert export(teacher, data_bin, out, "--quantize", "float16") == 2
    assert "was made with quantize int8, this command has float16" in capsys.readouterr().err
    with open(out / "model.bin", "ab") as file:
        file.write(b"x")
    assert export(teacher, data_bin, out, "--quantize", "int8") == 2
    assert "was changed after it was made" in capsys.readouterr().err


def test_gates_are_refused_and_nothing_is_left_until_they_are_cut_out(data_bin, tmp_path, capsys):
    gated = trained(data_bin, tmp_path / "gated.pt", *ADAPTIVE, updates=1)
    assert export(gated, data_bin, tmp_path / "out") == 2
    assert (
        f"{gated} cannot be exported: CTranslate2 cannot express gates: cut them out first" in capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["gated.pt"]
    assert main(["compact", str(gated), "--out", str(tmp_path / "small.pt")]) == 0
    assert export(tmp_path / "small.pt", data_bin, tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--subset", "tset"], "has no subset 'tset'"),
        (["--beam", 0], "--beam 0"),
        (["--trust-checkpoint", "other.pt"], "is not the CHECKPOINT"),
        (["--out", "/dev/null/x"], "cannot write to"),
        (["--data", "no-folder"], "DATA_BIN no-folder is not a folder"),
    ],
)
def test_bad_options_are_one_error(teacher, data_bin, tmp_path, capsys, words, message):
    assert export(teacher, data_bin, tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_other_dictionaries_a_foreign_folder_and_no_ctranslate2(teacher, data_bin, tmp_path, capsys, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(data_bin, other, ignore=shutil.ignore_patterns("manifest.json", "subword"))
    lines = (data_bin / "dict.qab.txt").read_text().splitlines()
    (other / "dict.qab.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    words = ("--reference", data_bin / "raw" / "test.qab", "--post-process", "sentencepiece")
    assert export(teacher, other, tmp_path / "out", *words) == 2
    assert "the first difference is at index 4" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    assert export(teacher, data_bin, tmp_path / "mine") == 2
    assert "exists and is not an exported model" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert export(teacher, data_bin, tmp_path / "out") == 2
    assert "ctranslate2 is not installed (pip install 'fairseq_kd[fast]')" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other"]
