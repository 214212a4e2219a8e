"""kd_student: sizes by name, gated linear units, layers of different shapes, counting, and refused inputs."""

import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import ROOT, TINY_MODEL
from helpers import batch, build
from student_helpers import SMALL, build_student, size, some_input

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.supported import output_projection
from fairseq_kd.models.count import operations_per_token, parameters_by_part
from fairseq_kd.models.student import KEYS, SIZES, dimensions
from fairseq_kd.models.sublayers import GatedLinearUnit, inner_width

NUMBERS = {rung: int(rung.removesuffix("m")) * 1_000_000 for rung in SIZES}


def test_the_yaml_of_students_has_every_size():
    sizes = yaml.safe_load((ROOT / "configs" / "students.yaml").read_text())
    assert tuple(sizes) == SIZES
    assert all(tuple(found) == KEYS and found == dimensions(rung) for rung, found in sizes.items())


@pytest.mark.parametrize("rung", SIZES)
def test_each_rung_has_the_size_of_its_name_and_the_yaml_says_which(rung):
    plain = size(build_student("--arch", f"kd_student_{rung}", types=10_000, device="meta"))
    assert plain == pytest.approx(NUMBERS[rung], rel=0.05)
    assert f"\n{rung}:  # {plain:,} parameters\n" in (ROOT / "configs" / "students.yaml").read_text()


@pytest.mark.parametrize("rung", SIZES)
def test_a_glu_has_as_many_parameters_as_the_plain_network(rung):
    options = ("--arch", f"kd_student_{rung}")
    models = [build_student(*options, "--ffn-type", kind, types=10_000, device="meta") for kind in ("plain", "glu")]
    plain, glu = (parameters_by_part(model) for model in models)
    for part in plain:
        assert glu[part] == pytest.approx(plain[part], rel=0.02 if part.endswith("ffn") else 0)
    assert models[1].encoder.layers[0].fc2.in_features % 8 == 0


def test_a_student_is_fairseqs_transformer_with_other_defaults():
    shape = ("--encoder-embed-dim", "128", "--encoder-ffn-embed-dim", "768", "--encoder-attention-heads", "4")
    shape += ("--decoder-attention-heads", "4", "--encoder-layers", "3", "--decoder-layers", "3")
    flags = ("--encoder-normalize-before", "--decoder-normalize-before", "--share-all-embeddings")
    stock = build_student("--arch", "transformer", *shape, *flags).eval()
    student = build_student("--arch", "kd_student_3m").eval()
    assert {name: value.shape for name, value in student.state_dict().items()} == {
        name: value.shape for name, value in stock.state_dict().items()
    }
    student.load_state_dict(stock.state_dict())
    assert torch.equal(student(**some_input())[0], stock(**some_input())[0])


def test_every_dimension_can_be_given_and_the_decoder_follows_the_encoder():
    model = build_student("--arch", "kd_student_3m", *SMALL, "--decoder-ffn-embed-dim", "40", "--decoder-layers", "1")
    assert (len(model.encoder.layers), len(model.decoder.layers)) == (2, 1)
    assert model.encoder.embed_tokens.weight.shape == (20, 16)
    assert model.encoder.layers[0].fc1.weight.shape == (24, 16)
    assert model.decoder.layers[0].fc1.weight.shape == (40, 16)
    assert model.decoder.layers[0].encoder_attn.num_heads == 4
    assert model.decoder.output_projection.weight is model.encoder.embed_tokens.weight


@pytest.mark.parametrize(
    ("name", "function"),
    [("relu", torch.relu), ("swish", F.silu), ("sigmoid", torch.sigmoid), ("gelu", F.gelu), ("linear", lambda x: x)],
)
def test_a_glu_is_the_value_times_the_activated_gate(name, function):
    layer = build_student("--arch", "kd_student", *SMALL, "--ffn-type", "glu", "--activation-fn", name).encoder.layers[
        0
    ]
    assert isinstance(layer.fc1, GatedLinearUnit)
    x = torch.randn(5, 3, 16)
    value = x @ layer.fc1.value.weight.T + layer.fc1.value.bias
    gate = x @ layer.fc1.gate.weight.T + layer.fc1.gate.bias
    torch.testing.assert_close(layer.activation_fn(layer.fc1(x)), value * function(gate), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["swish", "sigmoid", "relu"])
def test_a_plain_network_has_the_same_choice_of_activations(name):
    layer = build_student("--arch", "kd_student", *SMALL, "--activation-fn", name).decoder.layers[0]
    x = torch.tensor([-1.0, 0.0, 2.0])
    expected = {"swish": x * torch.sigmoid(x), "sigmoid": torch.sigmoid(x), "relu": x.clamp(min=0)}[name]
    torch.testing.assert_close(layer.activation_fn(x), expected)


def test_the_inner_width_of_a_glu_is_two_thirds_in_eights():
    assert [inner_width(width, "glu") for width in (768, 1024, 1280, 12, 4)] == [512, 680, 856, 8, 8]
    assert inner_width(1001, "plain") == 1001


LAYERS = (
    *("--encoder-ffn-widths", "0,10", "--decoder-ffn-widths", "7,24", "--encoder-self-heads", "3,0"),
    *("--decoder-self-heads", "0,1", "--decoder-cross-heads", "4,0"),
)


@pytest.mark.parametrize("ffn", ["plain", "glu"])
def test_layers_may_have_widths_of_their_own_and_none(ffn):
    model = build_student("--arch", "kd_student", *SMALL, *LAYERS, "--ffn-type", ffn)
    assert [layer.fc2.in_features for layer in model.encoder.layers] == [0, 10]
    assert model.encoder.layers[0].self_attn.q_proj.weight.shape == (12, 16)
    assert [layer.encoder_attn.num_heads for layer in model.decoder.layers] == [4, 0]
    model(**some_input())[0].square().sum().backward()
    # none is left out of the backward pass: torch's DDP would wait for it
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_without_heads_and_channels_a_sublayer_is_the_residual_and_a_bias():
    options = ("--encoder-ffn-widths", "0,0", "--encoder-self-heads", "0,0")
    layer = build_student("--arch", "kd_student", *SMALL, *options).encoder.layers[0].eval()
    with torch.no_grad():
        layer.self_attn.out_proj.bias.fill_(0.25)
        layer.fc2.bias.fill_(0.5)
    x = torch.randn(5, 3, 16)
    torch.testing.assert_close(layer(x, None), x + 0.75)


@pytest.mark.parametrize("options", [(), LAYERS, ("--ffn-type", "glu", "--activation-fn", "swish")])
def test_decoding_word_by_word_gives_what_one_pass_gives(options):
    model = build_student("--arch", "kd_student", *SMALL, *options).eval()
    sample = some_input()
    sample["prev_output_tokens"] = sample["prev_output_tokens"].clamp(min=2)  # no padding while decoding
    expected = model(**sample)[0]
    encoder_out = model.encoder(sample["src_tokens"], src_lengths=sample["src_lengths"])
    state, steps = {}, []
    for step in range(1, 7):
        fed = sample["prev_output_tokens"][:, :step]
        steps.append(model.decoder(fed, encoder_out=encoder_out, incremental_state=state)[0])
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=1e-4, atol=1e-5)


def test_parameters_by_part_and_operations_counted_by_hand():
    model = build_student("--arch", "kd_student", *SMALL, "--encoder-layers", "1", "--decoder-layers", "1")
    assert parameters_by_part(model) == {
        "embeddings": 20 * 16,
        "encoder self-attention": 4 * (16 * 16 + 16),
        "encoder norms": 3 * 2 * 16,  # two in the layer, one after the last
        "encoder ffn": 2 * 16 * 24 + 24 + 16,
        "decoder self-attention": 4 * (16 * 16 + 16),
        "decoder norms": 4 * 2 * 16,
        "decoder encoder-decoder attention": 4 * (16 * 16 + 16),
        "decoder ffn": 2 * 16 * 24 + 24 + 16,
        "output projection": 0,
    }
    # with 9 tokens: matrices twice their weights; scores and sums of values 2 · 2 · 16 a key; on average 5 keys behind
    assert operations_per_token(model, 9) == {
        "encoder": 2 * (4 * 256 + 2 * 16 * 24) + 4 * 16 * 9,
        "decoder": 2 * (8 * 256 + 2 * 16 * 24) + 4 * 16 * 5 + 4 * 16 * 9,
        "output projection": 2 * 20 * 16,
    }


def test_count_prints_the_sum_of_its_parts(data_bin, capsys):
    options = ["--encoder-layers", "2", "--ffn-type", "glu", "--length", "10"]
    assert main(["count", "--arch", "kd_student_3m", "--data", str(data_bin), *options]) == 0
    lines = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line]
    numbers = {words[0].strip(): int(words[1].replace(",", "")) for words in lines if words[1][0].isdigit()}
    parts = [value for name, value in numbers.items() if name.split()[0] in ("embeddings", "encoder", "decoder")]
    assert numbers["parameters"] == sum(parts[:-2])  # the last two are operations
    assert numbers["operations per target token"] == sum(parts[-2:]) + numbers["output projection"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "kd_student_4m"], "has --arch kd_student_4m"),
        (["--arch", "lstm_lm"], "cannot build"),
        (["--arch", "kd_student_3m", "--encoder-attention-heads", "5"], "--encoder-attention-heads 5"),
        (["--arch", "kd_student_3m", "--decoder-ffn-widths", "1,2"], "gives 2 numbers, but the decoder has 3 layers"),
        (["--arch", "kd_student_3m", "--decoder-ffn-widths", "1,2,x"], "must be whole numbers"),
        (["--arch", "kd_student_3m", "--encoder-self-heads", "1,2,5"], "at least 0 and at most 4"),
        (["--arch", "kd_student_3m", "--ffn-type", "glu", "--quant-noise-pq", "0.1"], "--quant-noise-pq"),
        (["--arch", "kd_student_3m", "--share-all-embeddings", "--separate-embeddings"], "exclude each other"),
        (["--arch", "kd_student_3m", "--colour", "blue"], "does not understand --colour blue"),
        (["--arch", "kd_student_3m", "--length", "0"], "--length 0"),
        (["--arch", "kd_student_3m", "--like", "x.pt"], "gives all dimensions: give --arch kd_student with it"),
        (["--arch", "kd_student", "--like", "x.pt"], "x.pt is not there"),
    ],
)
def test_what_cannot_be_built_is_one_clear_error(data_bin, capsys, options, message):
    assert main(["count", "--data", str(data_bin), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_one_embedding_for_two_dictionaries_is_refused_with_the_remedy(capsys):
    with pytest.raises(SystemExit):
        build_student("--arch", "kd_student_3m", target_types=21)
    assert "give --separate-embeddings" in capsys.readouterr().err
    model = build_student("--arch", "kd_student_3m", "--separate-embeddings", target_types=21)
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
    assert (len(model.encoder.embed_tokens.weight), len(model.decoder.embed_tokens.weight)) == (20, 21)


def test_an_unknown_type_of_network_in_a_checkpoint_is_refused():
    from argparse import Namespace

    from fairseq_kd.models.student import check_student_options

    with pytest.raises(KDError, match="ffn_type swiglu"):
        check_student_options(Namespace(share_all_embeddings=False, ffn_type="swiglu"), None)


@pytest.mark.parametrize("options", [(), LAYERS[:2] + LAYERS[4:6]])
def test_kd_word_takes_its_fused_loss_from_a_student(data_bin, teacher, options):
    assert TINY_MODEL[0] == "--arch"
    options = [word.replace("0,10", "5").replace("3,0", "1") for word in options]
    common = ("--arch", "kd_student", "--criterion", "kd_word", "--teacher", teacher, "--dropout", "0.0", *options)
    found = []
    for implementation in ("fused", "reference"):
        _, task, model, criterion = build(data_bin, *common, "--kd-implementation", implementation)
        assert output_projection(model) is model.decoder.embed_tokens.weight
        loss, _, logged = criterion(model, batch(task, range(4)))
        loss.backward()
        found.append((loss.item(), logged["kd_loss"].item(), model.encoder.layers[0].fc2.weight.grad.clone()))
    assert found[0][:2] == pytest.approx(found[1][:2], rel=1e-5)
    torch.testing.assert_close(found[0][2], found[1][2], rtol=1e-4, atol=1e-5)
