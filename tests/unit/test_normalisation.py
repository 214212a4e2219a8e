"""What SentencePiece does to the text before it is segmented, and whether references can be reached."""

import pytest

from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.sentencepiece_model import SentencePieceModel
from fairseq_kd.corpus.subword import load_subword_models
from fairseq_kd.corpus.text import write_lines

TARGET = ["今天，猫看见花。", "狗（很大）！", "房子：Ａ１", "The ﬁrst ½ …"]


@pytest.fixture
def raw(tmp_path):
    for stem, times in (("train", 15), ("valid", 1), ("test", 1)):
        write_lines(tmp_path / f"{stem}.en", ["a cat sees flowers today", "a dog", "a house", "first"] * times)
        write_lines(tmp_path / f"{stem}.zh", TARGET * times)
    return tmp_path


def prepare(raw, out, *extra):
    words = ["prepare", "text", "--raw", raw, "-s", "en", "-t", "zh", "--out", out, "--vocab-size", "60", *extra]
    return main([str(word) for word in words])


def segmented(folder) -> list[str]:
    """The references as the model reads them, and joins them again."""
    model = load_subword_models(folder, "en", "zh")["zh"]
    return [model.decode(model.encode(line)) for line in (folder / "raw" / "test.zh").read_text().splitlines()]


def test_by_default_every_reference_can_be_reached(raw, capsys):
    assert prepare(raw, raw / "out") == 0
    assert segmented(raw / "out") == TARGET
    manifest = read_manifest(raw / "out")
    assert manifest["subword"]["normalisation"] == {"en": "identity", "zh": "identity"}
    assert manifest["request"]["options"]["normalisation"] == "identity"
    assert "references_out_of_reach" not in manifest["subsets"]["test"]
    assert "references" not in capsys.readouterr().err


def test_a_rule_that_changes_references_says_so(raw, capsys):
    assert prepare(raw, raw / "out", "--normalisation", "nmt_nfkc") == 0
    assert segmented(raw / "out") == ["今天,猫看见花。", "狗(很大)!", "房子:A1", "The first 1⁄2 ..."]
    manifest = read_manifest(raw / "out")
    assert manifest["subsets"]["test"]["references_out_of_reach"] == 4
    assert "references_out_of_reach" not in manifest["subsets"]["train"]
    assert "test: the subword model changes 4 of 4 references (normalisation nmt_nfkc)" in capsys.readouterr().err
    words = ["prepare", "text", "--raw", raw, "-s", "en", "-t", "zh", "--out", raw / "like", "--like", raw / "out"]
    assert main([str(word) for word in words]) == 0  # a model that is used again keeps its rule
    assert read_manifest(raw / "like")["subword"]["normalisation"] == {"en": "nmt_nfkc", "zh": "nmt_nfkc"}
    assert "4 of 4 references" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("identity", "Ａ， ﬁ"),
        ("nmt_nfkc", "A, fi"),
        ("nfkc", "A, fi"),
        ("nmt_nfkc_cf", "a, fi"),
        ("nfkc_cf", "a, fi"),
    ],
)
def test_each_rule_is_sentencepieces_own_and_can_be_read_from_the_model(tmp_path, rule, expected):
    SentencePieceModel.train(["Ａ， ﬁ A, fi a"] * 20, 12, tmp_path / "model", rule)
    model = SentencePieceModel(tmp_path / "model")
    assert model.normalisation == rule
    assert model.normalise("Ａ， ﬁ") == model.decode(model.encode("Ａ， ﬁ")) == expected


@pytest.mark.parametrize(
    "given",
    [{"subword": "subword-nmt"}, {"subword": "none"}, {"subword_model": "m.spm"}, {"like": "data-bin"}],
)
def test_it_is_refused_where_no_model_is_trained(given):
    with pytest.raises(KDError, match="--normalisation nfkc has no effect"):
        PrepareOptions(normalisation="nfkc", **given)
    assert "normalisation" not in PrepareOptions(**given).as_dict()


def test_a_data_bin_from_before_the_option_was_there_is_kept_by_its_rule(raw, capsys):
    """Its manifest does not name the rule, and is the manifest of today's nmt_nfkc."""
    assert prepare(raw, raw / "out", "--normalisation", "nmt_nfkc") == 0
    assert prepare(raw, raw / "out") == 2
    assert "was made before --normalisation was an option, by nmt_nfkc" in capsys.readouterr().err
    assert "normalisation" not in PrepareOptions(normalisation="nmt_nfkc").as_dict()
    assert PrepareOptions().as_dict()["normalisation"] == "identity"
    with pytest.raises(KDError, match="--normalisation nfd: must be one of identity, nmt_nfkc"):
        PrepareOptions(normalisation="nfd")
