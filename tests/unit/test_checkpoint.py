import argparse
import os

import numpy as np
import pytest
import torch

from fairseq_kd.checkpoint import read_checkpoint
from fairseq_kd.errors import KDError


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


@pytest.mark.parametrize("kind", ["cut off", "empty", "text", "another dict", "a list"])
def test_what_is_no_checkpoint_is_one_clear_error(kind, tmp_path, teacher):
    path = tmp_path / "x.pt"
    if kind == "cut off":
        path.write_bytes(teacher.read_bytes()[:3000])
    elif kind in ("empty", "text"):
        path.write_text("" if kind == "empty" else "hello\n" * 50)
    else:
        torch.save({"a": 1} if kind == "another dict" else [1], path)
    with pytest.raises(KDError, match="not a fairseq checkpoint"):
        read_checkpoint(path)


def test_a_missing_checkpoint_and_a_folder_are_named(tmp_path):
    with pytest.raises(KDError, match=r"nothing\.pt is not there"):
        read_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(KDError, match="it is a folder"):
        read_checkpoint(tmp_path)
