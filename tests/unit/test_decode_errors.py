"""Bad input to `fairseq-kd decode`: one clear error, nothing written."""

import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY_MODEL, run_fairseq
from fairseq.data import Dictionary

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.sequence.decode import decode
from fairseq_kd.sequence.decode_options import DecodeOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "--beam 0: must be at least 1"),
        ({"beam": 4, "nbest": 5}, "--nbest 5 is more than --beam 4"),
        ({"strategy": "viterbi"}, "--strategy viterbi: must be one of beam, greedy, teacher-forcing, sample"),
        ({"strategy": "greedy", "beam": 5}, "--beam 5 has no effect with --strategy greedy"),
        ({"strategy": "greedy", "seed": 2}, "--seed 2 has no effect"),
        ({"sampling_topk": 5}, "--sampling-topk 5 has no effect with --strategy beam"),
        ({"strategy": "sample", "sampling_topk": 5, "sampling_topp": 0.5}, "give one of them"),
        ({"strategy": "sample", "sampling_topp": 1.5}, "must be at most 1 because it is a probability"),
        ({"strategy": "sample", "sampling_temperature": 0.0}, "must be above 0"),
        ({"strategy": "teacher-forcing", "lenpen": 1.0}, "--lenpen 1.0 has no effect"),
        ({"select": "closest"}, "give --nbest 2 or more"),
        ({"metric": "chrf"}, "no effect without --select closest"),
        ({"backend": "fairseq", "dtype": "int8"}, "--dtype int8 is for --backend ctranslate2"),
        ({"max_length_ratio": 0.5}, "--max-length-ratio 0.5: must be at least 1"),
        ({"max_tokens": 0}, "--max-tokens 0: must be at least 1"),
    ],
)
def test_options_out_of_range_or_without_effect(options, message):
    with pytest.raises(KDError, match=message):
        DecodeOptions(**options)


def refused(data_bin, teacher, out, message, options=None, **more):
    with pytest.raises(KDError, match=message):
        decode(data_bin, str(teacher), out, options or DecodeOptions(cpu=True), **more)
    assert not out.exists() or not list(out.iterdir())


def test_data_with_another_dictionary(data_bin, teacher, tmp_path):
    other = tmp_path / "other"  # as if stock fairseq had made it
    shutil.copytree(data_bin, other, ignore=shutil.ignore_patterns("manifest.json", "subword", "raw"))
    dictionary = Dictionary.load(str(other / "dict.qab.txt"))
    dictionary.symbols[10], dictionary.symbols[11] = dictionary.symbols[11], dictionary.symbols[10]
    dictionary.save(str(other / "dict.qab.txt"))
    refused(other, teacher, tmp_path / "out", "first difference is at index 10", teacher_data=data_bin)


def test_a_subset_that_is_not_there(data_bin, teacher, tmp_path):
    refused(data_bin, teacher, tmp_path / "out", "no subset 'tset'", DecodeOptions(cpu=True, subset="tset"))


def test_a_folder_that_cannot_be_written(data_bin, teacher, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KDError, match="cannot write to .*--out"):
        decode(data_bin, str(teacher), tmp_path / "file" / "out", DecodeOptions(cpu=True))


def test_a_folder_that_was_made_with_other_options(data_bin, teacher, tmp_path):
    options = DecodeOptions(cpu=True, subset="valid", strategy="greedy", max_len_b=10)
    decode(data_bin, str(teacher), tmp_path / "out", options)
    with pytest.raises(KDError, match=r"was made with settings\.max_len_b 10, this command has 20"):
        decode(
            data_bin, str(teacher), tmp_path / "out",
            DecodeOptions(cpu=True, subset="valid", strategy="greedy", max_len_b=20),
        )  # fmt: skip
    (tmp_path / "out" / "valid.qaa-qab.qab.bin").write_bytes(b"changed")
    with pytest.raises(KDError, match=r"valid\.qaa-qab\.qab\.bin has sha256 .*was changed"):
        decode(data_bin, str(teacher), tmp_path / "out", options)


def test_a_filter_that_was_given_before_and_is_not_given_now(data_bin, teacher, tmp_path):
    options = {"cpu": True, "subset": "valid", "strategy": "greedy", "max_len_b": 10}
    decode(data_bin, str(teacher), tmp_path / "out", DecodeOptions(**options, drop_copies=True))
    with pytest.raises(KDError, match=r"was made with filters\.drop_copies True, this command has nothing"):
        decode(data_bin, str(teacher), tmp_path / "out", DecodeOptions(**options))


def test_ctranslate2_for_what_it_cannot_do(data_bin, teacher, tmp_path, monkeypatch):
    for strategy, reason in (("sample", "samples depend on"), ("teacher-forcing", "not a search")):
        options = DecodeOptions(cpu=True, backend="ctranslate2", strategy=strategy)
        refused(data_bin, teacher, tmp_path / "out", f"cannot do this: .*{reason}.*--backend fairseq", options)
    options = DecodeOptions(cpu=True, backend="ctranslate2")
    refused(data_bin, f"{teacher}:{teacher}", tmp_path / "out", "it has no ensembles", options)
    automatic = DecodeOptions(cpu=True, strategy="teacher-forcing")
    refused(data_bin, teacher, tmp_path / "out", "--workers 0: must be at least 1", automatic, workers=0)
    refused(data_bin, teacher, tmp_path / "out", "--workers is for --backend ctranslate2", automatic, workers=2)
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    refused(data_bin, teacher, tmp_path / "out", "ctranslate2 is not installed .*pip install", options)


def test_a_teacher_that_ctranslate2_cannot_convert(data_bin, tmp_path):
    pytest.importorskip("ctranslate2")
    result = run_fairseq(
        "train", data_bin, *TINY_MODEL, "--no-token-positional-embeddings", "--max-update", 1, "--save-dir", tmp_path,
        user_dir=None,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    teacher, said = tmp_path / "checkpoint_last.pt", []
    options = DecodeOptions(cpu=True, backend="ctranslate2", subset="test", max_len_b=5)
    message = "cannot be converted .*a model with --no-token-positional-embeddings.*--backend fairseq"
    refused(data_bin, teacher, tmp_path / "out", message, options)
    automatic = DecodeOptions(cpu=True, subset="test", max_len_b=5)
    assert decode(data_bin, str(teacher), tmp_path / "out", automatic, say=said.append)["backend"] == "fairseq"
    assert len(said) == 1 and said[0].startswith(f"decoding with fairseq: {teacher} cannot be converted")


def test_two_that_need_one_converted_teacher_convert_it_once_in_the_folder_of_the_environment(tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2")
    from fairseq_kd.sequence import ctranslate2_backend

    (tmp_path / "teacher.pt").write_bytes(b"weights")
    model = torch.nn.Linear(1, 1)
    member = SimpleNamespace(model=model, source_dictionary=None, target_dictionary=None, path="teacher.pt")
    teachers = SimpleNamespace(paths=[str(tmp_path / "teacher.pt")], members=[member], inputs=Inputs())
    converted = []

    def write_model(model, source, target, folder, names):
        converted.append(folder)
        time.sleep(0.2)  # the other looks for it meanwhile
        (folder / "model.bin").write_bytes(b"converted")

    monkeypatch.setattr(ctranslate2_backend, "write_model", write_model)
    monkeypatch.setenv("FAIRSEQ_KD_CACHE", str(tmp_path / "own"))
    with ThreadPoolExecutor(2) as pool:
        found = set(pool.map(ctranslate2_backend.convert, [teachers, teachers]))
    assert [folder.parent for folder in found] == [tmp_path / "own" / "ctranslate2"]
    assert len(converted) == 1
    (folder,) = found
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    (folder / "model.bin").unlink()  # a removal that was killed
    (folder / "config.json").write_text("{}")
    assert ctranslate2_backend.convert(teachers) == folder and (folder / "model.bin").is_file()


def test_the_command_line_ends_with_status_2_and_one_line(data_bin, teacher, tmp_path, capsys):
    words = ["decode", str(data_bin), "--teacher", str(teacher), "--out", str(tmp_path / "out"), "--beam", "0"]
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines() == ["fairseq_kd: error: --beam 0: must be at least 1"]
    with pytest.raises(SystemExit) as end:
        main([*words[:-2], "--strategy", "viterbi"])
    assert end.value.code == 2 and "invalid choice: 'viterbi'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_closest_on_a_data_bin_that_does_not_say_how_its_subwords_make_text(data_bin, teacher, tmp_path):
    """Subwords that are scored as words give other choices than the text does; `evaluate` refuses the same."""
    plain = tmp_path / "plain"
    shutil.copytree(data_bin, plain, ignore=shutil.ignore_patterns("manifest.json", "raw", "subword"))
    options = DecodeOptions(cpu=True, subset="valid", nbest=2, beam=2, max_len_b=10, select="closest")
    message = "does not say how subwords become text.*--post-process sentencepiece"
    refused(plain, teacher, tmp_path / "out", message, options)
    told = decode(plain, str(teacher), tmp_path / "told", options, post_process="sentencepiece", say=lambda line: None)
    known = decode(data_bin, str(teacher), tmp_path / "known", options, say=lambda line: None)
    assert told["closest"]["post_process"] == known["closest"]["post_process"] == "sentencepiece"
    name = "valid.qaa-qab.qab.bin"
    assert (tmp_path / "told" / name).read_bytes() == (tmp_path / "known" / name).read_bytes()
    refused(data_bin, teacher, tmp_path / "other", "--post-process none: the manifest of .* says", options,
            post_process="none")  # fmt: skip
    with pytest.raises(KDError, match="--post-process words: must be one of"):
        decode(plain, str(teacher), tmp_path / "other", options, post_process="words")
