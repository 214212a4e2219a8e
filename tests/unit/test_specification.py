"""Students as CTranslate2 models: its runtime gives the log-probabilities of fairseq's forward pass, for all shapes."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from student_helpers import SMALL, build_student, dictionary

from fairseq_kd.core.errors import KDError
from fairseq_kd.export.runtime import load_translator, write_model

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="needs ctranslate2")
STUDENT = ("--arch", "kd_student", *SMALL)
TRANSFORMER = ("--arch", "transformer", *SMALL, "--decoder-embed-dim", "16", "--decoder-attention-heads", "4")
UNEVEN = (
    *("--encoder-ffn-widths", "5,17", "--decoder-ffn-widths", "13,24", "--encoder-self-heads", "1,3"),
    *("--decoder-self-heads", "1,2", "--decoder-cross-heads", "0,2"),
)
NOTHING = (
    *("--encoder-ffn-widths", "0,0", "--decoder-ffn-widths", "0,0", "--encoder-self-heads", "0,0"),
    *("--decoder-self-heads", "0,0", "--decoder-cross-heads", "0,0"),
)
GLU = ("--ffn-type", "glu", "--activation-fn")
KINDS = {
    "pre-norm": STUDENT,
    "post-norm": (*TRANSFORMER, "--share-all-embeddings"),
    "pre-norm without the last one": (*TRANSFORMER, "--decoder-normalize-before", "--no-decoder-final-norm"),
    "separate embeddings and projection": TRANSFORMER,
    "learned positions, no scale": (*STUDENT, "--encoder-learned-pos", "--no-scale-embedding", "--layernorm-embedding"),
    "sides of other widths": (
        *(*STUDENT, "--decoder-embed-dim", "24", "--decoder-attention-heads", "3", "--separate-embeddings"),
    ),
    **{name: (*STUDENT, "--activation-fn", name) for name in ("gelu_accurate", "tanh")},
    **{f"glu, {name}": (*STUDENT, *GLU, name) for name in ("swish", "sigmoid")},
    "uneven": (*STUDENT, *UNEVEN),
    "uneven glu": (*STUDENT, *UNEVEN, *GLU, "gelu"),
    "nothing left": (*STUDENT, *NOTHING),
}


def shaken(*options):
    """A model whose biases and norms are not what they begin with, which would hide a mistake."""
    model = build_student(*options).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def exported(model, folder, quantize="none"):
    symbols = dictionary(20)
    write_model(model, symbols, symbols, folder, quantize)
    return load_translator(folder, torch.device("cpu"), "default", workers=1)


def log_probabilities(model, source, target) -> np.ndarray:
    """Of each target token and of the end, by fairseq: (len(target) + 1,)."""
    with torch.no_grad():
        fed = torch.tensor([[2, *target]])
        output = model(torch.tensor([[*source, 2]]), torch.tensor([len(source) + 1]), fed)
        lprobs = model.get_normalized_probs(output, log_probs=True)[0]
    return lprobs[range(len(target) + 1), [*target, 2]].numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_probabilities_are_those_of_fairseq(kind, tmp_path):
    model = shaken(*KINDS[kind])
    translator, symbols = exported(model, tmp_path / "model"), dictionary(20).symbols
    rng = np.random.default_rng(1)
    pairs = [[rng.integers(4, 20, length).tolist() for length in lengths] for lengths in ((3, 9), (8, 4), (1, 1))]
    sources, targets = ([[symbols[token] for token in pair[side]] for pair in pairs] for side in (0, 1))
    found = translator.score_batch(sources, targets)  # lengths differ, so there is padding
    for (source, target), result in zip(pairs, found, strict=True):
        expected = log_probabilities(model, source, target)
        assert expected.std() > 0.1
        np.testing.assert_allclose(result.log_probs, expected, rtol=0, atol=1e-5)


def test_8_bit_and_16_bit_weights_are_a_little_less_exact_and_much_smaller(tmp_path):
    wide = ("--encoder-embed-dim", "64", "--encoder-ffn-embed-dim", "256", "--encoder-attention-heads", "4")
    short = ("--max-source-positions", "16", "--max-target-positions", "16")  # positions stay in float32
    model, sizes = build_student("--arch", "kd_student", *wide, *short, *GLU, "swish").eval(), {}
    expected = log_probabilities(model, [5, 6, 7], [8, 9])
    symbols = dictionary(20).symbols
    for quantize, tolerance in (("none", 1e-5), ("float16", 0.02), ("int8", 0.2)):
        translator = exported(model, tmp_path / quantize, quantize)
        (found,) = translator.score_batch([symbols[5:8]], [symbols[8:10]])
        np.testing.assert_allclose(found.log_probs, expected, rtol=0, atol=tolerance)
        sizes[quantize] = (tmp_path / quantize / "model.bin").stat().st_size
    assert sizes["int8"] < 0.6 * sizes["float16"] < 0.35 * sizes["none"]


def test_shared_embeddings_are_written_once(tmp_path):
    exported(shaken(*STUDENT), tmp_path / "shared")
    exported(shaken(*STUDENT, "--separate-embeddings"), tmp_path / "separate")
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("shared", "separate")]
    assert sizes[1] - sizes[0] == pytest.approx(20 * 16 * 4, abs=100)
    assert json.loads((tmp_path / "shared" / "config.json").read_text())["add_source_eos"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--arch", "kd_adaptive", "--capacity-target", "0.6", *SMALL),
            "gates: cut them out first, with fairseq-kd comp",
        ),
        ((*STUDENT, *GLU, "linear"), "--activation-fn is linear, it must be one of relu, gelu"),
        ((*TRANSFORMER, "--no-token-positional-embeddings"), "a model with --no-token-positional-embeddings"),
        ((*TRANSFORMER, "--no-cross-attention"), "a model with --no-cross-attention"),
        ((*TRANSFORMER, "--decoder-output-dim", "8"), "cannot express decoder.project_out_dim.weight of this"),
    ],
)
def test_what_cannot_be_expressed_is_refused(options, message, tmp_path):
    with pytest.raises(KDError, match=message):
        exported(build_student(*options).eval(), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_subclass_is_refused_since_it_may_compute_something_else(tmp_path):
    model = shaken(*TRANSFORMER)
    model.__class__ = type("OtherModel", (type(model),), {})
    with pytest.raises(KDError, match="cannot express a OtherModel: it must be a transformer or a kd_student"):
        exported(model, tmp_path / "model")


def test_a_layer_with_more_than_ctranslate2_knows_is_named(tmp_path):
    model = shaken(*TRANSFORMER)
    model.decoder.layers[1].ffn_layernorm = torch.nn.LayerNorm(16)
    with pytest.raises(KDError, match="cannot express decoder.layers.1.ffn_layernorm.bias and 1 more parameter"):
        exported(model, tmp_path / "model")
