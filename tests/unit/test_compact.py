"""fairseq-kd compact: the outputs of the gated student, fewer parameters, decoding, and refused inputs."""

import pytest
import torch
from conftest import PACKAGE
from helpers import batch, build, losses_of_training
from student_helpers import SMALL, build_student, size, some_input
from test_adaptive import ADAPTIVE, CROSS_ENTROPY, set_log_alpha

from fairseq_kd.cli.main import main
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.inference.frozen import build_model, configure_own_task
from fairseq_kd.models.compact import compact_weights

KINDS = [("plain", ()), ("glu", ("--ffn-type", "glu", "--activation-fn", "swish")), ("nothing left", ())]
KINDS += [(f"only {part}", ("--capacity-gates", part, "--capacity-target", "0.95")) for part in ("heads", "channels")]
TWO_LAYERS = ("--encoder-layers", "2", "--decoder-layers", "2", "--encoder-attention-heads", "4")


def scatter_gates(model, kind):
    """Some gates closed, some open, some between; with "nothing left" whole sub-layers closed."""
    generator = torch.Generator().manual_seed(3)
    for name, gate in model.capacity.gates.items():
        values = torch.randn(len(gate.score), generator=generator) * 3
        if kind == "nothing left" and name.split(".")[1] == "0":
            values[:] = -9.0
        set_log_alpha(gate, *values.tolist())
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms begin at 0 and 1, which would hide a mistake
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)


def compacted(model, options):
    """The compact student, built by its recorded widths."""
    from argparse import Namespace

    arguments = Namespace()
    for side in ("encoder", "decoder"):
        part, layers = getattr(model, side), getattr(model, side).layers
        sizes = {"layers": len(layers), "embed_dim": layers[0].embed_dim}
        sizes["attention_heads"] = getattr(part.cfg, side).attention_heads
        vars(arguments).update({f"{side}_{name}": value for name, value in sizes.items()})
    weights = {name: value for name, value in model.state_dict().items() if name != "_extra_state"}
    weights, widths = compact_weights(weights, arguments)
    words = [word for name, value in widths.items() for word in (f"--{name.replace('_', '-')}", value)]
    kept = () if "--capacity-gates" in options else options
    small = build_student("--arch", "kd_student", *SMALL, *kept, *words)
    small.load_state_dict(weights)
    return small, widths


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=[kind for kind, _ in KINDS])
def test_a_compact_student_says_what_the_gated_one_says(kind, options):
    model = build_student(*ADAPTIVE, *SMALL, *options)
    scatter_gates(model, kind)
    small, widths = compacted(model, options)
    expected, found = (each.eval()(**some_input())[0] for each in (model, small))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert size(small) == round(model.capacity.report()["capacity_kept"] * model.capacity.total)
    assert size(small) < (0.95 if "only" in kind else 0.9) * model.capacity.total
    for option, numbers in widths.items():
        part, uncut = ("heads", "4,4") if option.endswith("heads") else ("channels", "24,24")
        if kind.startswith("only"):
            assert (numbers == uncut) == (kind != f"only {part}")
    if kind == "nothing left":
        assert all(numbers.startswith("0,") for numbers in widths.values())


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=[kind for kind, _ in KINDS])
def test_beam_search_finds_the_same_with_gated_and_compact_student(kind, options):
    from fairseq.sequence_generator import SequenceGenerator
    from student_helpers import dictionary

    model = build_student(*ADAPTIVE, *SMALL, *options)
    scatter_gates(model, kind)
    small, _ = compacted(model, options)
    net_input = {name: value for name, value in some_input().items() if name != "prev_output_tokens"}
    outputs = []
    for each in (model, small):
        generator = SequenceGenerator([each.eval()], dictionary(20), beam_size=4, max_len_b=12)
        hypotheses = generator.generate([each], {"net_input": net_input})
        outputs.append([[(h["tokens"].tolist(), h["score"].item()) for h in sentence] for sentence in hypotheses])
    for ours, theirs in zip(*outputs, strict=True):
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-4)


@pytest.fixture(scope="module")
def adaptive_checkpoint(data_bin, tmp_path_factory):
    """A trained adaptive student with two layers, some of whose gates are closed."""
    options = (*ADAPTIVE, *CROSS_ENTROPY, *TWO_LAYERS, "--capacity-lr", "0.5")
    _, trainer = losses_of_training(data_bin, *options, updates=12)
    scatter_gates(trainer.get_model(), "nothing left")
    trainer.consolidate_optimizer()
    path = tmp_path_factory.mktemp("adaptive") / "adaptive.pt"
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}, "val_loss": 1.0})
    return path


def loaded(path):
    state = read_checkpoint(path)
    configure_own_task(path, state)
    return build_model(path, state)


def test_the_command_writes_a_checkpoint_that_is_read_as_any_other(adaptive_checkpoint, tmp_path, capsys):
    small = tmp_path / "deep" / "small.pt"
    assert main(["compact", str(adaptive_checkpoint), "--out", str(small)]) == 0
    printed = capsys.readouterr().out
    (gated, task), (compact, _) = loaded(adaptive_checkpoint), loaded(small)
    sample = batch(task, range(4), "valid")
    expected, found = (model.eval()(**sample["net_input"])[0] for model in (gated, compact))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert f"{size(compact):,} of {gated.capacity.total:,} parameters" in printed
    assert f"--arch kd_student --like {small} --finetune-from-model {small}" in printed
    state = read_checkpoint(small)
    assert state["last_optimizer_state"] is None and state["optimizer_history"][-1]["num_updates"] == 12
    assert state["cfg"].model.encoder_self_heads.startswith("0,")
    assert not [name for name in vars(state["cfg"].model) if name.startswith("capacity")]
    assert small.stat().st_size < adaptive_checkpoint.stat().st_size / 2
    assert [file.name for file in small.parent.iterdir()] == ["small.pt"]


def test_a_compact_student_can_be_trained_on(adaptive_checkpoint, data_bin, tmp_path):
    from conftest import TINY_MODEL
    from fairseq import options, tasks
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.trainer import Trainer

    small = tmp_path / "small.pt"
    main(["compact", str(adaptive_checkpoint), "--out", str(small)])
    training = TINY_MODEL[TINY_MODEL.index("--optimizer") :]
    words = [data_bin, "--arch", "kd_student", "--like", small, *training, *CROSS_ENTROPY, "--user-dir", PACKAGE]
    arguments = options.parse_args_and_arch(options.get_training_parser(), [str(word) for word in words])
    cfg = convert_namespace_to_omegaconf(arguments)
    task = tasks.setup_task(cfg.task)
    trainer = Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
    trainer.load_checkpoint(str(small), reset_optimizer=True, reset_lr_scheduler=True, reset_meters=True)
    reference, _ = loaded(small)
    sample = batch(task, range(4))
    assert torch.equal(trainer.model.eval()(**sample["net_input"])[0], reference.eval()(**sample["net_input"])[0])
    trainer.get_train_iterator(1)
    trainer.train_step([sample])
    assert not torch.equal(trainer.model.decoder.layers[1].fc2.bias, reference.decoder.layers[1].fc2.bias)
    assert cfg.model.like is None  # its own checkpoints need no other file


def test_what_cannot_be_compacted_is_one_clear_error(adaptive_checkpoint, teacher, tmp_path, capsys):
    for words, message in (
        ([teacher, "--out", tmp_path / "x.pt"], "is a transformer and has no gates"),
        ([tmp_path / "none.pt", "--out", tmp_path / "x.pt"], "none.pt is not there"),
        ([adaptive_checkpoint, "--out", adaptive_checkpoint], "is the checkpoint itself"),
        ([teacher, "--out", tmp_path / "x.pt", "--trust-checkpoint", "y.pt"], "is not the CHECKPOINT"),
    ):
        assert main(["compact", *map(str, words)]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_dimensions_beside_like_are_refused(adaptive_checkpoint, teacher, data_bin, tmp_path, capsys):
    small = tmp_path / "small.pt"
    main(["compact", str(adaptive_checkpoint), "--out", str(small)])
    for like, extra, message in (
        (small, ["--encoder-embed-dim", "32"], "--encoder-embed-dim is given by --like"),
        (teacher, [], "its architecture is transformer"),
    ):
        words = ["--arch", "kd_student", "--data", str(data_bin), "--like", str(like), *extra]
        assert main(["count", *words]) == 2
        assert message in capsys.readouterr().err


def test_the_gated_student_trains_beside_the_teacher_and_compacts(data_bin, teacher, tmp_path):
    """kd_word's fused loss, a few updates, and the compact student has the valid loss of the gated one."""
    options = (*ADAPTIVE, "--criterion", "kd_word", "--teacher", teacher, "--dropout", "0.1", *TWO_LAYERS)
    _, trainer = losses_of_training(data_bin, *options, updates=20)
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "a.pt"), {"train_iterator": {"epoch": 1}})
    main(["compact", str(tmp_path / "a.pt"), "--out", str(tmp_path / "b.pt")])
    *_, criterion = build(data_bin, *CROSS_ENTROPY)
    losses = []
    for name in ("a.pt", "b.pt"):
        model, task = loaded(tmp_path / name)
        losses.append(criterion(model.eval(), batch(task, range(8), "valid"))[0].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
