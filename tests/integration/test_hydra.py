"""fairseq-hydra-train with the files of configs/hydra."""

import dataclasses
import shlex
import sys
from argparse import Namespace

import pytest
import torch
import yaml
from conftest import PACKAGE, ROOT, assert_user_error
from docs_helpers import blocks_run_by
from process_helpers import run_python

from fairseq_kd.core import hydra_paths
from fairseq_kd.core.hydra_paths import resolve_paths

CONFIGS = ROOT / "configs" / "hydra"
TINY = ("optimization.max_update=2", "dataset.max_tokens=400", "dataset.num_workers=0", "common.cpu=true")


def hydra_train(words, cwd):
    return run_python("-m", "fairseq_cli.hydra_train", *words, *TINY, cwd=cwd)


def trained(folder) -> dict:
    """The options of the criterion of a finished training."""
    state = torch.load(folder / "checkpoints" / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 2
    return state["cfg"]["criterion"]


@pytest.fixture
def here(data_bin, teacher, distilled, tmp_path):
    """A folder with the paths of the page."""
    (tmp_path / "teacher").mkdir()
    for name, path in (("data-bin", data_bin), ("distilled", distilled), ("teacher/checkpoint_best.pt", teacher)):
        (tmp_path / name).symlink_to(path)
    return tmp_path


def test_the_commands_for_hydra(here):
    (block,) = blocks_run_by("test_the_commands_for_hydra")
    printed = {"$(fairseq-kd user-dir)": str(PACKAGE), "$(fairseq-kd user-dir --configs)": str(ROOT / "configs")}
    folders = (here, here / "runs" / "hybrid")
    for command, folder in zip(block.commands(), folders, strict=True):
        for words, path in printed.items():
            command = command.replace(words, path)
        result = hydra_train(shlex.split(command)[1:], here)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        assert trained(folder)["teacher"] == "teacher/checkpoint_best.pt"  # relative to the folder of the command
    assert trained(folders[0])["kd_divergence"] == "js" and trained(folders[1])["_name"] == "kd_hybrid"
    refused = hydra_train([*shlex.split(command)[1:], "criterion.kd_weight=2"], here)
    assert_user_error(refused, "--kd-weight 2")


@pytest.mark.parametrize("name", ["kd_word", "kd_hybrid", "kd_mutual"])
def test_every_option_of_the_criterion_is_in_the_file(name):
    """Hydra refuses NAME=VALUE without + for a key that the file lacks."""
    from fairseq.registry import REGISTRIES

    import fairseq_kd  # noqa: F401

    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    options = REGISTRIES["criterion"]["dataclass_registry"][name]
    found, known = config["criterion"], {field.name for field in dataclasses.fields(options)}
    assert config["criterion"].keys() == known
    choices = {key: value for key, value in found.items() if key not in ("_name", "kd_weight", "label_smoothing")}
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    assert choices == {key: defaults[key] for key in choices}, "all others are the defaults"


@pytest.mark.parametrize(
    ("program", "is_child", "found"),
    [
        ("fairseq-hydra-train", True, "/where/it/began/a.pt"),
        ("hydra_train.py", True, "/where/it/began/a.pt"),
        ("fairseq-train", True, "a.pt"),
        ("fairseq-hydra-train", False, "a.pt"),
    ],
)
def test_a_process_that_fairseq_starts_per_gpu_reads_the_record_of_hydra(
    program, is_child, found, tmp_path, monkeypatch
):
    """It has the arguments of its parent, and not the state of Hydra."""
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "hydra.yaml").write_text("hydra:\n  runtime:\n    cwd: /where/it/began\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"/bin/{program}"])
    monkeypatch.setattr(hydra_paths, "parent_process", lambda: object() if is_child else None)
    cfg = Namespace(teacher="a.pt", teacher_cache=None, distilled="x:/y")
    resolve_paths(cfg, ("teacher", "teacher_cache", "distilled"))
    assert cfg.teacher == found and cfg.teacher_cache is None
    assert cfg.distilled == ("x:/y" if found == "a.pt" else "/where/it/began/x:/y")
