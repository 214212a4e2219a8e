"""fairseq-kd init-student: which layers and channels are taken, what the student then says, and refused inputs."""

import re
from argparse import Namespace

import pytest
import torch
from helpers import batch
from student_helpers import SMALL, build_student, some_input, write_model

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.checkpoint import read_checkpoint
from fairseq_kd.inference.frozen import build_model, configure_own_task, load_frozen
from fairseq_kd.models.initialise import check_fit, chosen_layers, important_channels, initial_weights

SHARED = {"share_decoder_input_output_embed": True}
TEACHER_SHAPE = [
    *("--encoder-embed-dim", "16", "--encoder-attention-heads", "2", "--decoder-attention-heads", "2"),
    *("--decoder-embed-dim", "16", "--share-all-embeddings", "--encoder-layers", "1", "--decoder-layers", "1"),
]


def test_the_chosen_layers_by_hand():
    assert chosen_layers(6, 3, "skip") == [0, 2, 5]
    assert chosen_layers(6, 2, "skip") == [0, 5]
    assert chosen_layers(6, 1, "skip") == [0]
    assert chosen_layers(6, 6, "skip") == [0, 1, 2, 3, 4, 5]
    assert chosen_layers(6, 2, "first") == [0, 1]
    assert chosen_layers(6, 2, "last") == [4, 5]
    with pytest.raises(KDError, match="the student has 7 layers, its teacher 6"):
        chosen_layers(6, 7, "skip")


def test_the_most_important_channels_by_hand():
    layer = build_student("--arch", "kd_student", *SMALL).encoder.layers[0]
    with torch.no_grad():
        layer.fc1.weight.zero_()
        layer.fc1.bias.copy_(torch.arange(24.0))
        layer.fc2.weight.fill_(1.0)
        layer.fc2.weight[:, 23] = 0.0  # a channel that nothing hears
    assert important_channels(layer, 3).tolist() == [20, 21, 22]


def test_a_student_of_the_same_shape_is_the_teacher_and_an_adaptive_one_too():
    teacher = build_student("--arch", "kd_student", *SMALL, seed=7).eval()
    for options in (("--arch", "kd_student"), ("--arch", "kd_adaptive", "--capacity-target", "0.7")):
        student = build_student(*options, *SMALL).eval()
        student.load_state_dict(initial_weights(teacher, student, "skip"))
        torch.testing.assert_close(student(**some_input())[0], teacher(**some_input())[0], rtol=1e-4, atol=1e-5)


def test_channels_that_do_nothing_are_the_ones_left_out():
    teacher = build_student("--arch", "kd_student", *SMALL, seed=7).eval()
    for side in (teacher.encoder, teacher.decoder):
        for layer in side.layers:
            layer.fc2.weight.data[:, ::3] = 0.0
    student = build_student("--arch", "kd_student", *SMALL, "--encoder-ffn-embed-dim", "16").eval()
    student.load_state_dict(initial_weights(teacher, student, "skip"))
    torch.testing.assert_close(student(**some_input())[0], teacher(**some_input())[0], rtol=1e-4, atol=1e-5)


def test_the_command_writes_a_checkpoint_that_says_what_the_teacher_says(data_bin, teacher, tmp_path, capsys):
    out = tmp_path / "student.pt"
    words = ["--teacher", str(teacher), "--arch", "transformer", "--out", str(out), *TEACHER_SHAPE]
    assert main(["init-student", *words, "--encoder-ffn-embed-dim", "32"]) == 0
    assert f"--finetune-from-model {out}" in capsys.readouterr().out
    outputs = []
    for path in (teacher, out):
        state = read_checkpoint(path)
        configure_own_task(path, state)
        model, task = build_model(path, state)
        outputs.append(model.eval()(**batch(task, range(3), "valid")["net_input"])[0])
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "kd_student"], "encoder_normalize_before is False in the teacher and True in the student"),
        (["--arch", "transformer", "--encoder-attention-heads", "4"], "encoder_attention_heads is 2"),
        (["--arch", "transformer", "--encoder-layers", "2"], "the student has 2 layers, its teacher 1"),
        (["--arch", "transformer", "--encoder-ffn-embed-dim", "40"], "have 40 channels, the teacher's 32"),
        (["--arch", "transformer", "--encoder-embed-dim", "32", "--decoder-embed-dim", "32"], "embed_dim is 16"),
    ],
)
def test_what_does_not_fit_is_refused(teacher, tmp_path, capsys, options, message):
    words = ["--teacher", str(teacher), "--out", str(tmp_path / "x.pt"), *TEACHER_SHAPE]
    assert main(["init-student", *words, *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


MBART = [
    *("--task", "translation_from_pretrained_bart", "--langs", "qaa,qab,qac", "--arch", "mbart_large"),
    *("--encoder-embed-dim", "16", "--decoder-embed-dim", "16", "--encoder-ffn-embed-dim", "24"),
    *("--decoder-ffn-embed-dim", "24", "--encoder-attention-heads", "2", "--decoder-attention-heads", "2"),
    *("--max-source-positions", "40", "--max-target-positions", "40"),
    *("--encoder-normalize-before", "--decoder-normalize-before"),
]


@pytest.fixture(scope="module")
def mbart(data_bin, tmp_path_factory):
    """A mBART-shaped teacher with four layers on each side, of which the two in the middle change nothing."""
    path = tmp_path_factory.mktemp("mbart") / "teacher.pt"
    words = ["--source-lang", "qaa", "--target-lang", "qab", "--encoder-layers", "4", "--decoder-layers", "4"]
    write_model(path, data_bin, *MBART, *words)
    state = torch.load(path)
    for name, value in state["model"].items():
        if re.search(r"layers\.[12]\.(self_attn\.out_proj|encoder_attn\.out_proj|fc2)\.", name):
            value.zero_()
    torch.save(state, path)
    return path


def of_mbart(path):
    state = read_checkpoint(path)
    configure_own_task(path, state, language_tokens=True)
    model, task = build_model(path, state)
    return model.eval(), task


def test_a_student_of_a_mbart_shaped_teacher_has_its_outer_layers_and_everything_beside_them(mbart, tmp_path, capsys):
    """Without two layers that change nothing, the student says what the teacher says, also after language tokens."""
    out = tmp_path / "student.pt"
    words = ["--encoder-layers", "2", "--decoder-layers", "2", *MBART[4:]]
    assert main(["init-student", "--teacher", str(mbart), "--out", str(out), *words]) == 0
    assert "--task translation_from_pretrained_bart --arch mbart_large" in capsys.readouterr().out
    (teacher, task), (student, _) = of_mbart(mbart), of_mbart(out)
    sample = some_input()
    sample["src_tokens"][:, -1] = task.source_dictionary.index("[qaa]")
    sample["prev_output_tokens"][:, 0] = task.target_dictionary.index("[qab]")
    assert sample["src_tokens"][0, -1] > task.source_dictionary.unk()
    torch.testing.assert_close(student(**sample)[0], teacher(**sample)[0], rtol=1e-5, atol=1e-5)
    ours, theirs = student.state_dict(), teacher.state_dict()
    for name in ("embed_positions.weight", "layernorm_embedding.bias", "layer_norm.weight", "embed_tokens.weight"):
        for side in ("encoder", "decoder"):
            assert torch.equal(ours[f"{side}.{name}"], theirs[f"{side}.{name}"])
    assert torch.equal(ours["decoder.layers.1.fc1.weight"], theirs["decoder.layers.3.fc1.weight"])
    assert len(student.encoder.layers) == len(student.decoder.layers) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*MBART[4:], "--max-source-positions", "50"], "encoder.embed_positions.weight of shape (52, 16)"),
        (["--arch", "bart_base", *MBART[6:-2]], "encoder_normalize_before is True in the teacher and False"),
        ([*MBART[4:], "--no-scale-embedding"], "no_scale_embedding is False in the teacher and True in the student"),
    ],
)
def test_what_does_not_fit_a_mbart_shaped_teacher_is_refused(mbart, tmp_path, capsys, options, message):
    words = ["--teacher", str(mbart), "--out", str(tmp_path / "x.pt"), *options]
    assert main(["init-student", *words, "--encoder-layers", "2", "--decoder-layers", "2"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_student_of_a_teacher_of_several_pairs_says_what_the_teacher_says_in_each_direction(data_bin, tmp_path):
    out, shape = tmp_path / "student.pt", ["--arch", "transformer", *TEACHER_SHAPE, "--encoder-ffn-embed-dim", "32"]
    tokens = ["--encoder-langtok", "src", "--decoder-langtok", "--langs", "qaa,qab,qac"]
    task = ["--task", "translation_multi_simple_epoch", "--lang-pairs", "qab-qaa,qaa-qab", *tokens]
    teacher = write_model(tmp_path / "teacher.pt", data_bin, *task, *shape)
    for lang in ("qaa", "qab"):  # no names of files that show a pair
        (tmp_path / f"dict.{lang}.txt").write_bytes((data_bin / f"dict.{lang}.txt").read_bytes())
    words = ["--teacher", str(teacher), "--data", str(tmp_path), "--out", str(out), *shape]
    assert main(["init-student", *words]) == 0
    for pair, token in ((("qaa", "qab"), "__qab__"), (("qab", "qaa"), "__qaa__")):
        found = [load_frozen(path, data=data_bin, languages=pair) for path in (teacher, out)]
        sample = some_input()
        sample["prev_output_tokens"][:, 1] = found[0].target_dictionary.index(token)
        assert found[1].languages == pair and found[1].language_tokens == found[0].language_tokens
        assert torch.equal(*(model.model(**sample)[0] for model in found))


def test_one_matrix_cannot_hold_two_of_the_teacher():
    teacher = dict.fromkeys(("share_decoder_input_output_embed", "share_all_embeddings"), False)
    with pytest.raises(KDError, match="one of them would be lost"):
        check_fit(*(Namespace(arch="transformer", **teacher | given) for given in ({}, SHARED)))
    check_fit(*(Namespace(arch="transformer", **teacher | given) for given in (SHARED, {})))
