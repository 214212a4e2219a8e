"""Subwords become text as SentencePiece itself makes text of them, byte pieces too."""

import io
import json
import random

import pytest
import sentencepiece
from unspaced_helpers import write_checkpoint

from fairseq_kd.cli.main import main
from fairseq_kd.corpus.sentencepiece_model import SentencePieceModel
from fairseq_kd.corpus.subword import load_decoder

TRAINED_ON = ["a dog sees the house", "the house sees a dog", "dogs and houses"] * 20
TEXT = ["a dog sees El Niño", "ñ", "the house é", "el ñandú sees 你好 a house", "🙂 a dog", "dogs and houses"]


@pytest.fixture(scope="module")
def with_bytes(tmp_path_factory):
    """A model whose letters are the letters of TRAINED_ON; others are bytes."""
    path, model = tmp_path_factory.mktemp("bytes") / "bytes.spm", io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINED_ON), model_writer=model, vocab_size=300, model_type="bpe", byte_fallback=True,
        minloglevel=2,
    )  # fmt: skip
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="module")
def model(with_bytes):
    return SentencePieceModel(with_bytes)


@pytest.mark.parametrize("text", TEXT)
def test_text_with_byte_pieces_is_the_text_again(model, text):
    segmented = model.encode(text)
    assert ("<0x" in segmented) == (text != "dogs and houses")
    assert model.decode(segmented) == text
    assert load_decoder("sentencepiece")(segmented) == text


def test_any_pieces_become_the_text_that_sentencepiece_makes_of_them(model):
    """The bytes are drawn at random, so many belong to no character, or to one that UTF-8 does not allow."""
    draw, processor = random.Random(1), model.processor
    leads = [0xC3, 0xE4, 0xED, 0xF0, 0xF4, 0xC0, 0xE0]
    for _ in range(2000):
        pieces = ["a"]
        for _ in range(draw.randint(1, 8)):
            byte = draw.choice([draw.randrange(256), draw.choice(leads), draw.randrange(0x80, 0xC0)])
            pieces.append(draw.choice([f"<0x{byte:02X}>", f"<0x{byte:02X}>", "\u2581dog", "s", "\u2581"]))
        pieces.append("s")
        expected = processor.decode(pieces)
        assert load_decoder("sentencepiece")(" ".join(pieces)) == expected, pieces
        assert model.decode(" ".join(pieces)) == expected, pieces


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("\u2581a <unk> \u2581dog", "a<unk> dog"),  # as fairseq writes an unknown token
        ("\u2581 <unk> s", "<unk>s"),
        ("<unk> <unk>", "<unk><unk>"),
        ("\u2581the \u2581 <0xC3> <unk> <0xB1>", "the \ufffd<unk>\ufffd"),
        ("", ""),
        ("\u2581xyz@ <0xC3> <0xB1>", "xyz@ñ"),  # a piece that the model does not have
        ("<0xC3 > <0xc3>", "<0xC3><0xc3>"),  # no byte pieces
    ],
)
def test_special_cases(model, line, text):
    assert load_decoder("sentencepiece")(line) == text
    if "<0xc3>" not in line:
        assert model.decode(line) == text


@pytest.fixture(scope="module")
def prepared(with_bytes, tmp_path_factory):
    """(data-bin with the model, checkpoint); Spanish letters in the sets that are evaluated."""
    folder = tmp_path_factory.mktemp("prepared")
    for lang in ("xa", "xb"):
        (folder / f"train.{lang}").write_text("".join(f"{line}\n" for line in TRAINED_ON + TEXT), encoding="utf-8")
        for subset in ("valid", "test"):
            (folder / f"{subset}.{lang}").write_text("".join(f"{line}\n" for line in TEXT), encoding="utf-8")
    words = ["prepare", "text", "--raw", folder, "-s", "xa", "-t", "xb", "--subword-model", with_bytes]
    assert main([*map(str, words), "--out", str(folder / "data")]) == 0
    write_checkpoint(folder / "data", folder / "model.pt")
    return folder / "data", folder / "model.pt"


def test_evaluate_joins_the_bytes_of_hypotheses(prepared, model, monkeypatch, tmp_path):
    from fairseq_kd.evaluation.system import System

    monkeypatch.setattr(System, "translate", lambda *arguments: list(map(model.encode, TEXT)))
    data_bin, checkpoint = prepared
    words = ["evaluate", data_bin, "--checkpoint", checkpoint, "--cpu", "--out", tmp_path / "result.json"]
    assert main([*map(str, words)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["hypotheses"] == result["references"] == TEXT
    assert result["chrf"]["score"] == pytest.approx(100)
