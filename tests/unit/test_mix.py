import shutil

import numpy as np
import pytest

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.opening import open_data
from fairseq_kd.sequence.mix import chosen, mix

LANGUAGES = ("qaa", "qab")


def pairs(folder) -> list[tuple]:
    dataset = open_data(folder, LANGUAGES, "train").dataset("train")
    return [(tuple(s.tolist()), tuple(t.tolist())) for s, t in zip(dataset.src, dataset.tgt, strict=True)]


def test_whole_copies_come_first_and_a_share_holds_nothing_twice_and_is_in_order():
    numbers = list(chosen(10, 2.5, np.random.default_rng(1)))
    assert numbers[:20] == [*range(10), *range(10)]
    assert len(numbers) == 25 and numbers[20:] == sorted(set(numbers[20:]))


def test_training_sets_follow_one_another_and_the_rest_is_the_first_ones(data_bin, tmp_path):
    half = mix([data_bin], [0.5], tmp_path / "half", seed=3)
    manifest = mix([data_bin, tmp_path / "half"], [1, 2], tmp_path / "mixed")
    assert half["pairs"] == 200 and manifest["pairs_of_each"] == [400, 400]
    gold, share = pairs(data_bin), pairs(tmp_path / "half")
    assert pairs(tmp_path / "mixed") == gold + share + share
    assert set(share) <= set(gold)
    name = "valid.qaa-qab.qab.bin"
    assert (tmp_path / "mixed" / name).read_bytes() == (data_bin / name).read_bytes()
    assert mix([data_bin, tmp_path / "half"], [1, 2], tmp_path / "mixed") == manifest


def test_the_share_depends_on_the_seed(data_bin, tmp_path):
    for seed in (1, 2):
        mix([data_bin], [0.3], tmp_path / str(seed), seed=seed)
    assert pairs(tmp_path / "1") != pairs(tmp_path / "2")


def test_a_seed_without_effect_is_refused(data_bin, tmp_path, capsys):
    command = ["mix", str(data_bin), str(data_bin), "--out", str(tmp_path / "out")]
    for more in (["--seed", "3"], ["--times", "1", "2", "--seed", "1"]):
        assert main([*command, *more]) == 2
        assert "has no effect: every training set is repeated as a whole (--times 1 " in capsys.readouterr().err
    assert main([*command, "--times", "1", "0.5", "--seed", "-1"]) == 2
    assert "--seed -1: must be 0 or above" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--times", "1", "0.5", "--seed", "3"]) == 0


def test_without_a_seed_the_share_is_that_of_seed_1(data_bin, tmp_path):
    first = mix([data_bin], [0.3], tmp_path / "out", seed=1)
    assert first["seed"] == 1 and mix([data_bin], [0.3], tmp_path / "out") == first


def test_bad_input_is_one_clear_error(data_bin, tmp_path):
    with pytest.raises(KDError, match="--times: 1 numbers for 2 data-bins"):
        mix([data_bin, data_bin], [1], tmp_path / "out")
    with pytest.raises(KDError, match="--times 0: must be above 0"):
        mix([data_bin], [0], tmp_path / "out")
    with pytest.raises(KDError, match="nowhere is not a folder"):
        mix([data_bin, tmp_path / "nowhere"], [1, 1], tmp_path / "out", languages=LANGUAGES)
    other = tmp_path / "other"
    mix([data_bin], [0.1], other)
    lines = (other / "dict.qaa.txt").read_text().splitlines()
    (other / "dict.qaa.txt").unlink()
    (other / "manifest.json").unlink()  # as if stock fairseq had made it
    shutil.rmtree(other / "subword")
    (other / "dict.qaa.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    with pytest.raises(KDError, match="^the source dictionaries of .* differ: .*index 4"):
        mix([data_bin, other], [1, 1], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    mix([data_bin], [0.1], tmp_path / "made")
    with pytest.raises(KDError, match="was made with inputs.0.times 0.1, this command has 0.2"):
        mix([data_bin], [0.2], tmp_path / "made")
