"""What kd_word and kd_hybrid learn from the calls of the task: that a training begins, and what a dummy batch is."""

import pytest
import torch
from helpers import batch, build

from fairseq_kd.cache.make import CachingOptions, make_cache

SELECTIVE = ("--kd-select", "global", "--kd-queue-size", "50")


@pytest.fixture(scope="module")
def cache(data_bin, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dummies") / "cache"
    make_cache(data_bin, teacher, folder, CachingOptions(top_k=8, tail_shapes=0))
    return folder


class Optimizer:
    def backward(self, loss):
        loss.backward()


def step(task, model, criterion, sample, dummy):
    """The logging output of what fairseq's trainer calls."""
    return task.train_step(
        sample=sample, model=model, criterion=criterion, optimizer=Optimizer(), update_num=1, ignore_grad=dummy
    )[2]


@pytest.mark.parametrize("criterion_name", ["kd_word", "kd_hybrid"])
def test_a_dummy_batch_of_a_validation_set_has_no_signal_and_no_effect(
    data_bin, distilled, cache, criterion_name, capsys
):
    options = ["--criterion", criterion_name, "--teacher-cache", cache, "--dropout", "0.0", *SELECTIVE]
    if criterion_name == "kd_hybrid":
        options += ["--task", "kd_translation", "--distilled", distilled, "--hybrid-gate", "learned"]
    _, task, model, criterion = build(data_bin, *options)
    of_valid, of_train = batch(task, range(4), "valid"), batch(task, range(4))
    seen = criterion.recent.seen.clone()
    logged = step(task, model, criterion, of_valid, dummy=True)
    parameters = [*model.parameters(), *criterion.parameters()]
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in parameters)  # all are reduced
    assert torch.equal(criterion.recent.seen, seen)
    expected = step(task, model, criterion, of_train, dummy=False)  # fairseq adds the two up, name by name
    assert [*logged] == [*expected] and expected["kd_loss"] > 0
    assert any(parameter.grad.any() for parameter in parameters) and criterion.recent.seen > seen
    with pytest.raises(SystemExit):  # one that counts
        step(task, model, criterion, of_valid, dummy=False)
    said = capsys.readouterr().err
    assert (
        "differs from the one in teacher cache" if criterion_name == "kd_word" else "needs a distilled target"
    ) in said


@pytest.mark.parametrize("option", ["--teacher", "--teacher-cache"])
def test_a_mistyped_teacher_is_found_before_data_are_loaded_and_a_validation_needs_none(
    data_bin, tmp_path, option, capsys
):
    missing = tmp_path / "mistyped"
    _, task, model, criterion = build(data_bin, "--criterion", "kd_word", option, missing)
    task.load_dataset("valid", combine=False, epoch=1, task_cfg=task.cfg)  # as fairseq-validate does
    model.eval(), criterion.eval()
    assert criterion(model, batch(task, range(4), "valid"))[2].keys().isdisjoint({"kd_loss"})
    for subset in ("valid", "train"):
        task.datasets.pop(subset, None)
        with pytest.raises(SystemExit) as stopped:
            task.load_dataset(subset, combine=False, epoch=1)  # as fairseq-train does
        assert stopped.value.code == 2 and subset not in task.datasets
        assert f"{missing} does not exist" in capsys.readouterr().err


def test_a_folder_in_the_place_of_the_teacher_and_a_file_of_somebody_else(data_bin, tmp_path, capsys, monkeypatch):
    import builtins

    folder, closed, opened = tmp_path / "folder", tmp_path / "closed.pt", builtins.open
    folder.mkdir()
    closed.write_bytes(b"x")

    def guarded(path, *args, **kwargs):
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    for path, message in ((folder, "is a folder"), (closed, "cannot be opened (Permission denied)")):
        _, task, *_ = build(data_bin, "--criterion", "kd_word", "--teacher", path)
        with monkeypatch.context() as patched, pytest.raises(SystemExit):
            patched.setattr(builtins, "open", guarded)
            task.load_dataset("train")
        assert f"teacher {path} {message}" in capsys.readouterr().err
