"""fairseq-kd average: the mean of the weights of several models."""

import pytest
import torch
from helpers import write_variant

from fairseq_kd.cli.main import main
from fairseq_kd.inference.checkpoint import read_checkpoint, write_initial_checkpoint


@pytest.fixture
def models(teacher, tmp_path):
    """Two models of one shape with the same file name, and one of another shape."""
    paths = [tmp_path / name / "checkpoint_best.pt" for name in ("one", "two", "other")]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        write_variant(teacher, path, 0.1 * number, 1)
    state = read_checkpoint(paths[2])
    weights = {name: value for name, value in state["model"].items() if "decoder.layers.0.fc2" not in name}
    write_initial_checkpoint(paths[2], state, weights)
    return [str(path) for path in paths]


def test_the_mean_is_exact_names_its_models_and_is_kept(models, tmp_path, capsys):
    out = tmp_path / "mean.pt"
    assert main(["average", ":".join(models[:2]), "--out", str(out)]) in (0, None)
    assert capsys.readouterr().out == f"{out}: the mean of {models[0]}, {models[1]}\n"
    mean, *both = (read_checkpoint(path)["model"] for path in (out, *models[:2]))
    for name, value in mean.items():
        if value.is_floating_point():
            assert torch.equal(value, ((both[0][name].double() + both[1][name].double()) / 2).to(value.dtype))
    assert set(read_checkpoint(out)["extra_state"]["averaged_from"]) == set(models[:2])
    before = out.stat().st_mtime_ns
    main(["average", ":".join(models[:2]), "--out", str(out)])
    assert out.stat().st_mtime_ns == before


def test_the_mean_of_weights_in_float64_with_tied_names(models, tmp_path):
    for number, path in enumerate(models[:2]):
        state = read_checkpoint(path)
        weights = {name: value.double() + number if value.is_floating_point() else value
                   for name, value in state["model"].items()}  # fmt: skip
        weights["decoder.embed_tokens.weight"] = weights["encoder.embed_tokens.weight"]
        write_initial_checkpoint(path, state, weights)
    main(["average", ":".join(models[:2]), "--out", str(tmp_path / "mean.pt")])
    mean, *both = (read_checkpoint(path)["model"] for path in (tmp_path / "mean.pt", *models[:2]))
    for name, value in mean.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (both[0][name] + both[1][name]) / 2)


WRONG = [
    ("{0}", "is one checkpoint, and a mean needs two or more: join them by :"),
    ("{0}:{0}", "is one checkpoint, and a mean needs two or more"),
    ("{0}:nowhere", ": nowhere is not a file"),
    ("{0}:", ": an empty name is not a file"),
    ("{0}:{2}", "have different architectures: the weights decoder.layers.0.fc2.bias is"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_bad_input_is_one_clear_error_and_nothing_is_written(models, tmp_path, capsys, given, message):
    assert main(["average", given.format(*models), "--out", str(tmp_path / "mean.pt")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "mean.pt").exists()


def test_a_file_that_is_no_mean_is_not_overwritten(models, capsys):
    assert main(["average", ":".join(models[:2]), "--out", models[2]]) == 2
    assert "exists and is not an average, and it would be lost" in capsys.readouterr().err
