"""A manifest says what was read: an input that changes while a command runs is an error that names it."""

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.core.errors import KDError

SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "teacher.pt"
    path.write_bytes(b"abc")
    os.utime(path, (1, 1))
    return path


def replace(path, content=b"xyz"):
    """Another file of the same size under this name, as a training that saves does it."""
    path.with_suffix(".new").write_bytes(content)
    os.replace(path.with_suffix(".new"), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace, "was changed or replaced while it was read"),
        (lambda path: path.write_bytes(b"xyz"), "was changed or replaced while it was read"),
        (lambda path: os.truncate(path, 1), r"was changed or replaced while it was read \(3 bytes before, 1 bytes now"),
        (os.remove, "was removed or cannot be read any more"),
    ],
)
@pytest.mark.parametrize("when", ["before the hash", "after it"])
def test_a_file_that_changes_is_named(file, change, message, when):
    inputs = Inputs()
    inputs.watch(file)
    if when == "after it":
        assert inputs.sha256(file) == SHA256_OF_ABC
    change(file)
    with pytest.raises(KDError, match=f"input {file} {message}"):
        inputs.check()
    if when == "before the hash":
        with pytest.raises((KDError, FileNotFoundError), match=str(file)):
            inputs.sha256(file)


def test_the_same_content_under_another_inode_is_the_same_input(file):
    inputs = Inputs()
    inputs.sha256(file)
    replace(file, b"abc")
    inputs.check()
    os.utime(file)
    inputs.check()


def test_a_file_in_memory_may_change_and_its_hash_stays(file):
    inputs = Inputs()
    inputs.watch(file)
    assert inputs.loaded(file) == SHA256_OF_ABC
    assert inputs.loaded(file) == SHA256_OF_ABC
    file.unlink()
    inputs.check()
    assert inputs.sha256(file) == SHA256_OF_ABC


def test_a_file_that_changed_while_it_was_loaded_is_refused(file):
    inputs = Inputs()
    assert inputs.sha256(file) == SHA256_OF_ABC
    replace(file)
    with pytest.raises(KDError, match=f"input {file} was changed"):
        inputs.loaded(file)


def test_an_unchanged_file_is_hashed_once(file, monkeypatch):
    inputs = Inputs()
    inputs.sha256(file)
    monkeypatch.setattr("fairseq_kd.artifacts.inputs.sha256_file", None)
    assert inputs.sha256(file) == SHA256_OF_ABC
    inputs.check()


def test_an_error_is_blamed_on_the_input_that_changed_and_else_stays(file):
    with pytest.raises(KDError, match=f"input {file} was changed") as found, Inputs() as inputs:
        inputs.watch(file)
        os.truncate(file, 0)
        raise ValueError("cannot mmap an empty file")
    assert isinstance(found.value.__cause__, ValueError)
    with pytest.raises(ValueError, match="of the code"), Inputs() as inputs:
        inputs.watch(file)
        raise ValueError("of the code")
    with pytest.raises(KeyboardInterrupt), Inputs() as inputs:
        inputs.watch(file)
        file.unlink()
        raise KeyboardInterrupt


def copy_of(data_bin, tmp_path):
    return shutil.copytree(data_bin, tmp_path / "copy")


def meanwhile(monkeypatch, module, name: str, change) -> None:
    """Let `change` happen when `module.name` has returned: its caller has read its inputs."""
    function = getattr(module, name)

    def changed(*arguments, **options):
        found = function(*arguments, **options)
        change()
        return found

    monkeypatch.setattr(module, name, changed)


def refused(run, path) -> None:
    with pytest.raises(KDError, match=f"input {path} was changed or replaced while it was read"):
        run()


@pytest.mark.parametrize("changed", ["teacher", "data"])
def test_a_cache_of_inputs_that_were_replaced_is_not_begun(changed, data_bin, teacher, tmp_path, monkeypatch):
    from fairseq_kd.cache import make
    from fairseq_kd.inference import loading

    data, own = copy_of(data_bin, tmp_path), shutil.copy(teacher, tmp_path / "teacher.pt")
    path = own if changed == "teacher" else data / "valid.qaa-qab.qab.bin"
    meanwhile(monkeypatch, loading, "load_pair", lambda: replace(path, path.read_bytes() + b"\0\0"))
    options = make.CachingOptions(subset="valid", cpu=True)
    refused(lambda: make.make_cache(data, own, tmp_path / "out", options), path)
    assert not (tmp_path / "out").exists()


def test_decoding_by_a_teacher_that_was_replaced_is_not_begun(data_bin, teacher, tmp_path, monkeypatch):
    from fairseq_kd.inference import loading
    from fairseq_kd.sequence.decode import decode
    from fairseq_kd.sequence.decode_options import DecodeOptions

    own = shutil.copy(teacher, tmp_path / "teacher.pt")
    monkeypatch.setenv("FAIRSEQ_KD_CACHE", str(tmp_path / "models"))
    meanwhile(monkeypatch, loading, "load_pair", lambda: replace(own, own.read_bytes() + b"\0"))
    refused(lambda: decode(data_bin, str(own), tmp_path / "out", DecodeOptions(cpu=True, subset="valid")), own)
    assert not (tmp_path / "out").exists() and not (tmp_path / "models").exists()


def test_parts_of_inputs_that_were_replaced_after_the_last_block_are_not_joined(file, tmp_path, monkeypatch):
    from fairseq_kd.artifacts import blocks

    joined = []
    work = SimpleNamespace(
        label="work",
        unit="sentences",
        blocks=blocks.cut_blocks(np.array([1, 1]), 1),
        part=lambda block, advance: [b"x"],
        join=lambda folder, request: joined.append(folder),
    )
    inputs = Inputs()
    inputs.watch(file)
    meanwhile(monkeypatch, blocks, "check_part", lambda: replace(file, b"other content"))
    refused(lambda: blocks.work_through(tmp_path / "out", {"kind": "fairseq_kd work"}, work, inputs=inputs), file)
    assert not joined and not (tmp_path / "out" / "manifest.json").exists()


def test_sources_that_were_replaced_while_blocks_are_assembled_get_no_manifest(
    data_bin, teacher, tmp_path, monkeypatch
):
    from fairseq_kd.sequence import assemble
    from fairseq_kd.sequence.decode import DecodeOptions, decode

    data = copy_of(data_bin, tmp_path)
    path = data / "valid.qaa-qab.qaa.bin"
    meanwhile(monkeypatch, assemble, "link_the_rest", lambda: replace(path, path.read_bytes() + b"\0\0"))
    options = DecodeOptions(cpu=True, subset="valid", backend="fairseq", strategy="greedy", max_len_b=3)
    refused(lambda: decode(data, str(teacher), tmp_path / "out", options), path)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_evaluation_on_references_that_were_replaced_gives_no_result(data_bin, teacher, tmp_path, monkeypatch):
    from fairseq_kd.evaluation import evaluate

    data = copy_of(data_bin, tmp_path)
    path = data / "raw" / "test.qab"
    meanwhile(monkeypatch, evaluate, "read_segments", lambda: replace(path, path.read_bytes() + b" "))
    options = evaluate.TranslateOptions(cpu=True, beam=1, max_len_b=3)
    refused(lambda: evaluate.evaluate(data, teacher, "test", options), path)


def test_an_export_of_a_checkpoint_that_was_replaced_is_not_made(data_bin, teacher, tmp_path, monkeypatch):
    pytest.importorskip("ctranslate2")
    from fairseq_kd.evaluation import exported

    own = shutil.copy(teacher, tmp_path / "student.pt")
    meanwhile(monkeypatch, exported, "open_system", lambda: replace(own, own.read_bytes() + b"\0"))
    refused(lambda: exported.export(own, data_bin, tmp_path / "out"), own)
    assert not (tmp_path / "out").exists()


def test_an_average_of_checkpoints_that_were_replaced_is_not_written(teacher, tmp_path, monkeypatch):
    from fairseq_kd.artifacts.hashes import sha256_file
    from fairseq_kd.evaluation import average

    own = [shutil.copy(teacher, tmp_path / name) for name in ("a.pt", "b.pt")]
    hashes = {path: sha256_file(path) for path in own}
    meanwhile(monkeypatch, average, "read_checkpoint", lambda: replace(own[0], own[0].read_bytes() + b"\0"))
    refused(lambda: average.write_average(hashes, tmp_path / "average.pt"), own[0])
    assert not (tmp_path / "average.pt").exists()


@pytest.mark.parametrize("command", ["mix", "noise"])
def test_a_data_bin_of_data_that_were_replaced_is_not_made(command, data_bin, tmp_path, monkeypatch):
    from fairseq_kd.noise import data_bin as noise
    from fairseq_kd.noise.operations import NoiseOptions
    from fairseq_kd.sequence import mix

    data = copy_of(data_bin, tmp_path)
    path = data / "train.qaa-qab.qaa.bin"
    module = mix if command == "mix" else noise
    meanwhile(monkeypatch, module, "open_data", lambda: replace(path, path.read_bytes()[::-1]))
    runs = {
        "mix": lambda: mix.mix([data], [1], tmp_path / "out"),
        "noise": lambda: noise.noise_data_bin(data, tmp_path / "out", NoiseOptions(0.1), sides=["source"], seed=1),
    }
    refused(runs[command], path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["noise", "prepare"])
def test_text_that_is_cut_off_midway_is_named_and_nothing_is_made(command, tmp_path, monkeypatch):
    from fairseq_kd.corpus import corpora, prepare
    from fairseq_kd.noise import text
    from fairseq_kd.noise.operations import NoiseOptions

    for name in ("train", "valid", "test"):
        for lang in ("de", "en"):
            (tmp_path / f"{name}.{lang}").write_text("one two three\n" * 50)
    path, out = tmp_path / "train.de", tmp_path / "out" / "out"

    def make_noise():
        languages = {"source": "de", "target": "en"}
        text.noise_text(tmp_path / "train", out, languages, NoiseOptions(0.1), sides=["source"], seed=1)

    def make_data_bin():
        options = corpora.usual_options("text", {"subword": "none"})
        corpora.prepare_by_name("text", "de", "en", out, options, tmp_path, say=lambda line: None)

    module, name, run = {
        "noise": (text, "count_aligned", make_noise),
        "prepare": (prepare, "_clean", make_data_bin),
    }[command]
    meanwhile(monkeypatch, module, name, lambda: os.truncate(path, 100))
    refused(run, path)
    assert not out.parent.exists() or list(out.parent.iterdir()) == []
