"""Words that are written like symbols of fairseq: `<s>`, `<pad>`, `</s>`, `<unk>`."""

import numpy as np
import pytest

from fairseq_kd.cli.main import main
from fairseq_kd.corpus.binarise import binarise
from fairseq_kd.corpus.bpe import SubwordNMTModel
from fairseq_kd.corpus.sentencepiece_model import SentencePieceModel
from fairseq_kd.corpus.subword import load_subword_models
from fairseq_kd.corpus.text import write_lines
from fairseq_kd.inference.opening import open_data

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
LINES = [f"wort {i} {word} ende{i % 3}" for i, word in enumerate(SPECIAL * 15)]
LINES[0], LINES[1] = "</s>", "<s>wort</s> <pad>"


@pytest.fixture
def raw(tmp_path):
    for stem, lines in (("train", LINES), ("valid", LINES[:4]), ("test", LINES[:9])):
        for lang in ("de", "en"):
            write_lines(tmp_path / f"{stem}.{lang}", lines)
    return tmp_path


def prepare(raw, out, *extra):
    return main([*map(str, ["prepare", "text", "--raw", raw, "-s", "de", "-t", "en", "--out", out, *extra])])


@pytest.mark.parametrize("kind", ["sentencepiece", "subword-nmt"])
def test_subwords_bring_them_back_as_text_and_no_sentence_ends_in_its_middle(raw, kind):
    # 90 merges: enough for each special word to become one subword
    assert prepare(raw, raw / "out", "--subword", kind, "--vocab-size", "90" if kind == "subword-nmt" else "38") == 0
    model = load_subword_models(raw / "out", "de", "en")["en"]
    for subset, lines in (("train", LINES), ("test", LINES[:9])):
        task = open_data(raw / "out", ("de", "en"), subset)
        dictionary = task.target_dictionary
        for ids, line in zip(task.dataset(subset).tgt, lines, strict=True):
            assert ids[-1] == dictionary.eos() and int((ids < dictionary.nspecial).sum()) == 1
            assert model.decode(" ".join(dictionary[i] for i in ids[:-1])) == line


def test_a_run_of_characters_that_sentencepiece_does_not_know_is_no_symbol(tmp_path):
    SentencePieceModel.train(["狗 房子 狗房子", "房 狗"] * 9, 9, tmp_path / "model")
    model = SentencePieceModel(tmp_path / "model")
    for word in SPECIAL:
        for line in (word, f"狗{word}房子", f"狗 {word} 房子 {word}"):
            pieces = model.encode(line)
            assert not set(pieces.split(" ")) & set(SPECIAL)
            assert pieces.replace(" ", "").replace("\u2581", " ").strip() == line


def test_subwords_that_are_no_symbols_stay_as_they_are(tmp_path):
    (tmp_path / "codes").write_text("#version: 0.2\n< /\n</ s\n</s ></w>\n</s >\n")
    model = SubwordNMTModel(tmp_path / "codes")
    assert model.encode("</s> x</s> </s>x <b>") == "<@@ /s> x@@ <@@ /s> </s>@@ x <@@ b@@ >"


def test_without_subwords_they_are_refused_with_their_lines(raw, capsys):
    assert prepare(raw, raw / "out", "--subword", "none") == 2
    error = capsys.readouterr().err
    assert "60 pairs of" in error and "(lines 1, 2, 3, 4, 5, ...)" in error and "</s> <pad> <s> <unk>" in error
    assert "Traceback" not in error and not (raw / "out").exists()
    for stem in ("train", "valid"):
        write_lines(raw / f"{stem}.de", ["wort"] * 3)
        write_lines(raw / f"{stem}.en", ["<b> </s>x s> < unk"] * 3)
    write_lines(raw / "test.de", ["wort", "wort", "ein <unk> wort"])
    write_lines(raw / "test.en", ["wort"] * 3)
    assert prepare(raw, raw / "out", "--subword", "none") == 2  # a reference could otherwise be met by not knowing
    assert "1 pairs of" in (error := capsys.readouterr().err) and "(lines 3)" in error and "words <unk>." in error
    write_lines(raw / "test.de", ["wort"] * 3)
    assert prepare(raw, raw / "out", "--subword", "none") == 0
    write_lines(raw / "test.de", ["wort", "</s>", "wort"])
    assert prepare(raw, raw / "like", "--like", raw / "out") == 2  # which has no subwords either


@pytest.fixture
def plain(raw):
    """What fairseq-preprocess makes of them: symbols in the middle of sentences."""
    lines = ["wort eins", "wort </s> ende", "wort <pad> ende", "wort zwei"]
    for lang in ("de", "en"):
        write_lines(raw / f"train.{lang}", lines * 4)
    binarise({"train": raw / "train"}, "de", "en", raw / "plain", joint=True)
    return raw / "plain"


def test_noise_in_a_data_bin_names_the_sentence_and_the_word_that_it_comes_from(plain, capsys):
    words = ["noise", "--data-bin", plain, "--out", plain / "out", "--delete", "0.1", "--post-process", "none"]
    assert main([*map(str, words)]) == 2
    error = capsys.readouterr().err
    assert "sentence 2 has the end-of-sentence symbol in its middle" in error
    assert "fairseq-preprocess turns the word </s> of the text into this symbol" in error


def test_the_cache_names_the_sentence_and_the_word_that_it_comes_from(plain):
    from fairseq_kd.cache.format import CacheFormat
    from fairseq_kd.cache.options import CachingOptions
    from fairseq_kd.cache.teacher_rows import TeacherRows
    from fairseq_kd.core.errors import KDError

    class Signal(list):  # of no rows
        vocabulary = 10
        rows = logits = None

    class Teacher:
        max_positions = (99, 99)

        @staticmethod
        def signal(sample, keep):
            return Signal()

    task = open_data(plain, ("de", "en"), "train")
    cache_format = CacheFormat(2, (1.0,), len(task.target_dictionary))
    rows = TeacherRows(Teacher, task, cache_format, CachingOptions(cpu=True))
    with pytest.raises(KDError, match="target of sentence 3 holds the padding symbol.*turns the word <pad> of"):
        rows(0, 16, lambda count: None, None)
    assert np.count_nonzero(rows.sizes == 4) == 8
