"""Where work runs: the device of a process, and CTranslate2 where it cannot compute."""

import numpy as np
import pytest
import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import cache_folder
from fairseq_kd.inference.device import choose_device, parse_shard
from fairseq_kd.sequence.decode import decode
from fairseq_kd.sequence.decode_options import DecodeOptions

MISSING = "Library libcublas.so.12 is not found or cannot be loaded"
OUT_OF_MEMORY = "CUDA failed with error out of memory"


@pytest.mark.parametrize(("devices", "rank", "index"), [(1, None, 0), (1, "3", 0), (4, None, 0), (4, "3", 3)])
def test_a_rank_takes_its_device_or_the_only_one_that_it_sees(devices, rank, index, monkeypatch):
    see(monkeypatch, devices, rank)
    assert choose_device(cpu=False) == torch.device("cuda", index)
    assert choose_device(cpu=True) == torch.device("cpu")


@pytest.mark.parametrize(("rank", "message"), [("2", "sees 2 CUDA devices, 0 to 1"), ("one", "LOCAL_RANK='one'")])
def test_a_rank_without_a_device_is_refused(rank, message, monkeypatch):
    see(monkeypatch, 2, rank)
    with pytest.raises(KDError, match=message):
        choose_device(cpu=False)


@pytest.mark.parametrize(("rank", "count", "message"), [("4", "4", "RANK=4 and WORLD_SIZE=4"), ("", "4", "RANK=''")])
def test_ranks_that_make_no_share_of_the_work_are_refused(rank, count, message, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(KDError, match=message):
        parse_shard(None)


def see(monkeypatch, devices: int, rank: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)


class Failing:
    """A translator that is loaded, and fails with `error` when it is to compute, as with a missing CUDA library."""

    error = ""
    works_for = 0  # number of calls

    def __init__(self, *args, **kwargs):
        self.calls = 0

    def translate_batch(self, source, asynchronous=False, **kwargs):
        self.calls += 1
        if not asynchronous:
            return [self.result()]
        return [self for _ in source]

    def result(self):
        if self.calls > self.works_for:
            raise RuntimeError(self.error)


@pytest.fixture
def failing(monkeypatch):
    ctranslate2 = pytest.importorskip("ctranslate2")
    monkeypatch.setattr(ctranslate2, "Translator", Failing)
    return lambda error, works_for=0: [
        monkeypatch.setattr(Failing, name, value) for name, value in (("error", error), ("works_for", works_for))
    ]


def options(backend):
    return DecodeOptions(cpu=True, subset="valid", strategy="greedy", max_len_b=5, backend=backend)


def conversions() -> dict:
    return {str(path): path.stat().st_size for path in (cache_folder() / "ctranslate2").rglob("*") if path.is_file()}


def test_a_missing_library_leaves_the_work_to_fairseq_or_says_what_to_install(data_bin, teacher, failing, tmp_path):
    failing(MISSING)
    said = []
    manifest = decode(data_bin, str(teacher), tmp_path / "auto", options("auto"), say=said.append)
    assert manifest["backend"] == "fairseq"
    assert len(said) == 1 and MISSING in said[0] and said[0].startswith("decoding with fairseq: ")
    with pytest.raises(KDError, match=f"{MISSING}.*pip install nvidia-cublas-cu12.*--backend fairseq"):
        decode(data_bin, str(teacher), tmp_path / "out", options("ctranslate2"))
    assert not (tmp_path / "out").exists()


def test_a_device_without_memory_is_said_to_be_so_and_the_conversion_is_kept(data_bin, teacher, failing, tmp_path):
    for works_for, message in ((0, "needs more memory on cpu"), (1, r"batches of 1,024 tokens.*smaller --max-tokens")):
        failing(OUT_OF_MEMORY, works_for)
        with pytest.raises(KDError, match=message):
            decode(data_bin, str(teacher), tmp_path / "out", options("ctranslate2"))
        assert any(path.endswith("model.bin") for path in conversions())


@pytest.mark.parametrize("damaged", [False, True])
def test_a_conversion_is_made_again_only_if_its_files_have_changed(
    data_bin, teacher, tmp_path, damaged, monkeypatch, capsys
):
    ctranslate2 = pytest.importorskip("ctranslate2")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    decode(data_bin, str(teacher), tmp_path / "first", options("ctranslate2"))
    (model,) = tmp_path.rglob("model.bin")
    whole = model.read_bytes()
    if damaged:
        model.write_bytes(whole[: len(whole) // 2])
    else:
        monkeypatch.setattr(ctranslate2, "Translator", unreadable)
    if not damaged:
        with pytest.raises(KDError, match="whose files are as they were written"):
            decode(data_bin, str(teacher), tmp_path / "out", options("ctranslate2"))
        assert model.read_bytes() == whole
        return
    again = decode(data_bin, str(teacher), tmp_path / "out", options("ctranslate2"))
    assert "The model is converted again" in capsys.readouterr().err
    assert again["backend"] == "ctranslate2" and model.read_bytes() == whole
    files = [np.fromfile(tmp_path / name / "valid.qaa-qab.qab.bin", np.uint8) for name in ("first", "out")]
    np.testing.assert_array_equal(*files)


def unreadable(*args, **kwargs):
    raise RuntimeError("Unable to open file 'model.bin': Too many open files")
