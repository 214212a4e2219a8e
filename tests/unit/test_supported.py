"""Tasks and models of fairseq that this package does not work with: refused by name, by every command.

The two tasks with language tokens are refused by some commands only; test_multilingual.py has the others.
"""

from argparse import Namespace

import pytest
import torch
from conftest import TINY_MODEL
from data_bin_helpers import commands
from helpers import batch, build, write_checkpoint

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.frozen import load_frozen
from fairseq_kd.inference.supported import check_training_task

# task of a checkpoint -> its options
OTHERS = {
    "translation_multi_simple_epoch": ("--lang-pairs", "qaa-qab", "--langs", "qaa,qab"),
    "translation_from_pretrained_bart": ("--langs", "qaa,qab", "--source-lang", "qaa", "--target-lang", "qab"),
    "translation_lev": ("--arch", "nonautoregressive_transformer", "--noise", "full_mask", "--apply-bert-init"),
}
ALL = ("cache", "decode", "evaluate", "select-teacher", "export", "init-student")
REFUSED_BY = {task: ALL if task == "translation_lev" else ("export", "translate") for task in OTHERS}
NAT = ("--arch", "nonautoregressive_transformer", "--apply-bert-init")


@pytest.fixture(scope="module")
def checkpoints(data_bin, tmp_path_factory):
    """Name of a task -> a checkpoint of it."""
    folder = tmp_path_factory.mktemp("others")
    found = {}
    for task, options in OTHERS.items():
        found[task] = folder / task / "checkpoint_last.pt"
        found[task].parent.mkdir()
        write_checkpoint(found[task], data_bin, "--task", task, *options)
    return found


@pytest.mark.parametrize("task", OTHERS)
def test_a_checkpoint_of_another_task_is_refused_by_its_name_by_every_command(
    task, checkpoints, data_bin, tmp_path, capsys
):
    pytest.importorskip("ctranslate2")
    listed = commands(data_bin, checkpoints[task], tmp_path, tmp_path / "out")
    listed["init-student"] = [
        *("init-student", "--teacher", str(checkpoints[task]), "--arch", "transformer", "--data", str(data_bin)),
        *("--out", str(tmp_path / "student.pt")),
    ]
    text = str(data_bin / "raw" / "test.qaa")
    listed["translate"] = ["translate", str(checkpoints[task]), text, "--data", str(data_bin)]
    for name in REFUSED_BY[task]:
        words = listed[name]
        if "--reference" in words:  # the data-bin brings its own
            at = words.index("--reference")
            words = words[:at] + words[at + 4 :]
        capsys.readouterr()
        assert main(words) == 2, name
        error = capsys.readouterr().err
        assert f"was trained by --task {task}" in error and error.count("fairseq_kd: error:") == 1, name


@pytest.mark.parametrize("task", OTHERS)
def test_a_training_of_another_task_is_refused_by_its_name(task, data_bin, teacher, capsys):
    if task != "translation_lev":  # kd_word supports it, kd_mutual does not
        _, made, _, _ = build(data_bin, "--task", task, *OTHERS[task], "--criterion", "cross_entropy")
        with pytest.raises(KDError, match=f"--criterion kd_mutual with --task {task}, which adds language tokens"):
            check_training_task(made, "kd_mutual")
        return
    with pytest.raises(SystemExit) as ended:
        build(data_bin, "--task", task, *OTHERS[task], "--criterion", "kd_word", "--teacher", teacher)
    assert ended.value.code == 2
    assert f"--criterion kd_word with --task {task}" in capsys.readouterr().err


def test_a_non_autoregressive_teacher_of_the_translation_task_is_refused(data_bin, tmp_path):
    write_checkpoint(tmp_path / "nat.pt", data_bin, *NAT)
    with pytest.raises(KDError, match=r"nat\.pt is a NATransformerModel, which is non-autoregressive"):
        load_frozen(tmp_path / "nat.pt", languages=("qaa", "qab"))


@pytest.mark.parametrize("criterion", ["kd_word", "kd_hybrid"])
def test_a_non_autoregressive_student_is_refused(criterion, data_bin, distilled, teacher, capsys):
    hybrid = ("--task", "kd_translation", "--distilled", distilled) if criterion == "kd_hybrid" else ()
    _, task, model, made = build(data_bin, *NAT, "--criterion", criterion, *hybrid, "--teacher", teacher)
    with pytest.raises(SystemExit) as ended:
        made(model, batch(task, range(4)))
    assert ended.value.code == 2
    assert "the student is a NATransformerModel, which is non-autoregressive" in capsys.readouterr().err


@pytest.mark.parametrize("arch", ["lstm_wiseman_iwslt_de_en", "fconv_iwslt_de_en", "transformer_align", "bart_base"])
def test_fairseqs_encoder_decoders_are_supported(arch, data_bin):
    from fairseq_kd.inference.supported import check_model

    small = ["--encoder-layers", "1", "--decoder-layers", "1"]
    if arch.startswith("fconv"):
        small = ["--encoder-layers", "[(16, 3)]", "--decoder-layers", "[(16, 3)]", "--decoder-out-embed-dim", "16"]
    left = ("--encoder-ffn-embed-dim", "--encoder-attention-heads")
    sizes = {} if arch.startswith(("lstm", "fconv")) else dict.fromkeys(left, "2")
    _, _, model, _ = build_arch(data_bin, arch, *small, *(word for pair in sizes.items() for word in pair))
    check_model(model, arch)


def build_arch(data_bin, arch, *options):
    """A model of an architecture that does not take the options of TINY_MODEL for transformers."""
    from fairseq import tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.options import get_training_parser, parse_args_and_arch

    words = [str(data_bin), "--arch", arch, *TINY_MODEL[TINY_MODEL.index("--optimizer") :], *options]
    cfg = convert_namespace_to_omegaconf(parse_args_and_arch(get_training_parser(), words))
    task = tasks.setup_task(cfg.task)
    return cfg, task, task.build_model(cfg.model), None


def test_an_architecture_or_task_that_nobody_registers_is_named(teacher, data_bin, tmp_path):
    for part, what in (("model", "architecture"), ("task", "task")):
        state = torch.load(teacher)
        options = state["cfg"][part]
        options = vars(options) if isinstance(options, Namespace) else options
        options |= {"arch" if part == "model" else "task": "kd_test_nowhere", "_name": "kd_test_nowhere"}
        torch.save(state, tmp_path / "own.pt")
        message = f"has the {what} kd_test_nowhere, which neither fairseq nor fairseq_kd registers.*--user-dir"
        with pytest.raises(KDError, match=message):
            load_frozen(tmp_path / "own.pt", data=data_bin, languages=("qaa", "qab"))
