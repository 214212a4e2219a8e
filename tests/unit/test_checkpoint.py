import argparse
import os

import numpy as np
import pytest
import torch

from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.inference.frozen import load_frozen


class RunsCode:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


class SomeType:
    pass


def test_hostile_pickle_does_not_run_and_is_named(tmp_path):
    made, path = tmp_path / "made-by-the-pickle", tmp_path / "hostile.pt"
    torch.save({"model": {}, "cfg": RunsCode(made)}, path)
    with pytest.raises(KDError, match=r"posix\.mkdir.*--trust-checkpoint"):
        read_checkpoint(path)
    assert not made.exists()


def test_hostile_pickle_of_the_old_format_does_not_run(tmp_path):
    made, path = tmp_path / "made-by-the-pickle", tmp_path / "hostile.pt"
    torch.save({"model": {}, "cfg": RunsCode(made)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(KDError, match=r"posix\.mkdir"):
        read_checkpoint(path)
    assert not made.exists()


def test_environment_cannot_switch_the_check_off(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    made, path = tmp_path / "made-by-the-pickle", tmp_path / "hostile.pt"
    torch.save({"model": {}, "cfg": RunsCode(made)}, path)
    with pytest.raises(KDError, match=r"posix\.mkdir"):
        read_checkpoint(path)
    assert not made.exists() and os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


def test_other_types_are_refused_by_name_and_read_when_trusted(tmp_path, teacher):
    state = torch.load(teacher)
    path = tmp_path / "other.pt"
    torch.save(state | {"more": SomeType()}, path)
    with pytest.raises(KDError, match=r"test_checkpoint\.SomeType"):
        read_checkpoint(path)
    assert isinstance(read_checkpoint(path, trust=True)["more"], SomeType)
    assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ


def test_types_that_fairseq_writes_are_read(tmp_path, teacher):
    counts = {"bleu": np.array([3, 2]), "ratio": np.float64(0.5), "sizes": np.ones(2, dtype=np.float32)}
    path = tmp_path / "with-counts.pt"
    torch.save(torch.load(teacher) | {"counts": counts, "more": argparse.Namespace(a=1)}, path)
    state = read_checkpoint(path)
    assert state["counts"]["bleu"].tolist() == [3, 2] and state["more"].a == 1


class ReducesTo:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "value",
    [
        ReducesTo(np.ndarray, (1,), "O8", b"AAAAAAAA"),  # an array of pointers that the file chose
        ReducesTo(np.ndarray, (4,), "i8", b"A" * 32),
        np.array([print], dtype=object),
        np.dtype([("a", "O")]),
        np.array([("a", 1)], dtype=[("name", "U1"), ("n", "i4")]),
    ],
)
def test_numpy_arrays_that_are_not_numbers_are_refused(value, tmp_path, teacher):
    path = tmp_path / "x.pt"
    torch.save(torch.load(teacher) | {"more": value}, path)
    with pytest.raises(KDError, match=r"numpy\.|builtins\.print"):
        read_checkpoint(path)


def test_arrays_that_were_read_are_saved_as_plain_arrays_again(tmp_path, teacher):
    path = tmp_path / "x.pt"
    counts = np.arange(6, dtype=np.int64).reshape(2, 3).T
    torch.save(torch.load(teacher) | {"counts": counts}, path)
    read = read_checkpoint(path)["counts"]
    assert read.dtype == np.int64 and np.array_equal(read, counts) and np.array_equal(read + read, 2 * counts)
    torch.save({"counts": read + read}, path)
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    assert b"checkpoint_types" not in path.read_bytes()


def test_options_that_call_a_function_are_refused_because_fairseq_evaluates_some(tmp_path, teacher):
    state = torch.load(teacher)
    made, path = tmp_path / "made", tmp_path / "x.pt"
    state["cfg"]["model"].xformers_att_config = f" __import__('os').makedirs({str(made)!r}, exist_ok=True)"
    torch.save(state, path)
    with pytest.raises(KDError, match=r"__import__.*--trust-checkpoint"):
        load_frozen(path)
    assert not made.exists()
    load_frozen(path, trust=True)
    assert made.exists()  # fairseq does evaluate it


def test_the_folder_given_counts_for_checkpoints_of_the_old_layout(tmp_path, teacher, data_bin):
    state = torch.load(teacher)
    args = state["cfg"]["model"]
    args.data = str(tmp_path / "gone")
    path = tmp_path / "old.pt"
    torch.save(state | {"args": args, "cfg": None}, path)
    loaded = load_frozen(path, data=data_bin)
    assert len(loaded.target_dictionary) == state["model"]["decoder.embed_tokens.weight"].shape[0]
    with pytest.raises(KDError, match="gone"):
        load_frozen(path, languages=("qaa", "qab"))


@pytest.mark.parametrize("kind", ["cut off", "empty", "text", "another dict", "a list", "no history", "cfg is text"])
def test_what_is_no_checkpoint_is_one_clear_error(kind, tmp_path, teacher):
    path = tmp_path / "x.pt"
    if kind == "cut off":
        path.write_bytes(teacher.read_bytes()[:3000])
    elif kind in ("empty", "text"):
        path.write_text("" if kind == "empty" else "hello\n" * 50)
    elif kind == "no history":
        torch.save(torch.load(teacher) | {"optimizer_history": []}, path)
    elif kind == "cfg is text":
        torch.save(torch.load(teacher) | {"cfg": "a: b: c"}, path)
    else:
        torch.save({"a": 1} if kind == "another dict" else [1], path)
    with pytest.raises(KDError, match="not a fairseq checkpoint"):
        read_checkpoint(path)


def test_a_missing_checkpoint_and_a_folder_are_named(tmp_path):
    with pytest.raises(KDError, match=r"nothing\.pt is not there"):
        read_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(KDError, match="it is a folder"):
        read_checkpoint(tmp_path)
