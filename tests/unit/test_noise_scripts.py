"""Noise in text of scripts without spaces, and words that it must not touch."""

import json
import random

import numpy as np
import pytest
import regex

from fairseq_kd.artifacts.derived import SideWriter
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.sentencepiece_model import SentencePieceModel
from fairseq_kd.corpus.text import write_lines
from fairseq_kd.noise.operations import BLOCK_LINES, NoiseOptions
from fairseq_kd.noise.text import noise_and_count, noise_lines

HAN = "我你他喜欢吃看书的了在是不大小天水火山人中国学生老师今天明天医猫狗花红蓝"
RATES = [{"delete": 0.5}, {"substitute": 0.5}, {"swap": 0.9}, {"delete": 0.3, "substitute": 0.3, "swap": 0.3}]


def chinese(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(HAN, k=rng.randint(8, 20))) + "。" for _ in range(count)]


def german(count: int) -> list[str]:
    rng = random.Random(2)
    return [" ".join(rng.choices(["der", "Hund", "sieht", "„das“", "grüne", "Haus"], k=6)) for _ in range(count)]


def noise_files(folder, source: list[str], *options: str) -> int:
    write_lines(folder / "in.zh", source)
    write_lines(folder / "in.en", german(len(source)))
    words = ["--prefix", str(folder / "in"), "--out", str(folder / "out"), "-s", "zh", "-t", "en"]
    return main(["noise", *words, *options])


def test_words_of_text_without_spaces_are_refused_not_left_as_they_are(tmp_path, capsys):
    for rates in (["--delete", "0.3"], ["--substitute", "0.3"], ["--swap", "0.3"]):
        assert noise_files(tmp_path, chinese(400), *rates) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert "400 of 400 source sentences are in a script without spaces" in line
        assert "--word-tokenizer char" in line
    assert {path.name for path in tmp_path.iterdir()} == {"in.zh", "in.en"}
    assert noise_files(tmp_path, chinese(400), "--delete", "0.3", "--side", "target") == 0  # which is German


def test_with_the_tokenizer_char_each_character_is_a_word(tmp_path, capsys):
    source = chinese(400)
    assert noise_files(tmp_path, source, "--delete", "0.2", "--word-tokenizer", "char") == 0
    report = json.loads((tmp_path / "out.manifest.json").read_text())
    assert report["options"]["word_tokenizer"] == "char"
    rate = report["noise"]["zh"]["rates"]["delete"]
    assert rate["possible"] == report["noise"]["zh"]["units"] == sum(map(len, source))
    lines = (tmp_path / "out.zh").read_text(encoding="utf-8").splitlines()
    assert rate["done"] == sum(map(len, source)) - sum(map(len, lines))
    assert rate["realised"] == pytest.approx(0.2, abs=0.02)
    assert f"delete: {rate['done']:,} of {rate['possible']:,}, {rate['realised']:.4f}" in capsys.readouterr().out
    for before, after in zip(source, lines, strict=True):
        remaining = iter(before)
        assert after and all(character in remaining for character in after)
    swapped = noise_lines(source, swap=0.5, word_tokenizer="char", seed=1)
    assert swapped != source and [*map(sorted, swapped)] == [*map(sorted, source)]


def test_what_a_word_is_with_the_tokenizer_char():
    from fairseq_kd.noise.units import find_words_and_characters

    text = "我喜欢 BLEU模型，对吗？\nภาษาไทย don't\nか\u3099コー\n한국어 문장\n"
    pieces = [piece.decode() for piece in find_words_and_characters(text.encode()).pieces().to_pylist()]
    assert "".join(pieces) == text
    words = ["我", "喜", "欢", "BLEU", "模", "型", "，", "对", "吗", "？", "ภ", "า", "ษ", "า", "ไ", "ท", "ย", "don't"]
    assert pieces[1::2] == [*words, "か\u3099", "コ", "ー", "한국어", "문장"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我们 喜欢 俄罗斯 的 海", 0),  # segmented
        ("我们喜欢俄罗斯的海", 1),
        ("我们喜欢俄罗斯的海 ， 真的", 0),  # 11 letters in two words of Chinese: between the two, so left alone
        ("ผม ชอบ อ่าน หนังสือ ภาษา อังกฤษ มาก", 0),
        ("ผมชอบอ่านหนังสือภาษาอังกฤษมาก", 1),
        ("私は日本語の本を読むのが好きです。", 1),
        ("한국어 문장은 띄어쓰기를 한다", 0),
        ("Donaudampfschifffahrtsgesellschaftskapitän", 0),
        ("中国", 0),
        ("", 0),
    ],
)
def test_which_lines_are_not_segmented(text, expected):
    from fairseq_kd.noise.text_level import unsegmented_text
    from fairseq_kd.noise.units import find_words

    assert unsegmented_text(find_words(f"{text}\nMan – sieht\n".encode())) == expected


def test_a_few_lines_in_another_script_are_borne_and_many_are_refused_wherever_they_stand():
    many = chinese(2 * BLOCK_LINES)
    assert len(noise_lines(german(95) + many[:5], swap=0.2)) == 100
    with pytest.raises(KDError, match="11 of 100 source sentences"):
        noise_lines(german(89) + many[:11], swap=0.2)
    with pytest.raises(KDError, match="8,192 of 12,288 source sentences"):
        noise_lines(german(BLOCK_LINES) + many, swap=0.2)
    share = [*many[:600], *german(3 * BLOCK_LINES)]  # most of the first block, and few of all
    assert len(noise_lines(share, swap=0.2)) == len(noise_lines(share[::-1], swap=0.2)) == len(share)


def test_the_tables_of_scripts_are_those_of_unicode():
    from fairseq_kd.corpus.scripts import FIRST, is_unspaced, letter_weights

    rng, table, weights = random.Random(1), is_unspaced(), letter_weights()
    codes = [*map(ord, "中々〆ーあア한аaไກកကༀ。，１"), *rng.sample(range(FIRST, 0x20000), 3_000)]
    for code in codes:
        han_or_kana = regex.match(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Tibetan}]", chr(code))
        asian = regex.match(r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]", chr(code))
        if regex.match(r"\p{L}", chr(code)) and (han_or_kana or asian):
            assert table[code] and weights[code] == (2 if han_or_kana else 1), hex(code)
        if regex.match(r"[\p{Latin}\p{Cyrillic}\p{Hangul}\p{Arabic}\p{Devanagari}\p{N}]", chr(code)) and not (
            han_or_kana or asian
        ):
            assert weights[code] == 0, hex(code)


def test_protected_words_stay_where_they_are_and_the_others_change_around_them():
    """With a rate of 1 and two different words there is nothing to draw."""
    lines = ["<BT> a b", "a <BT> b", "<2en> <BT>", "a <BT> b <2en> a"]
    protect = ("<BT>", "<2en>")
    found = {name: noise_lines(lines, **{name: 1.0}, protect=protect, seed=1) for name in ("substitute", "swap")}
    assert found["substitute"] == ["<BT> b a", "b <BT> a", "<2en> <BT>", "b <BT> a <2en> b"]
    assert found["swap"] == ["<BT> b a", "b <BT> a", "<2en> <BT>", "b <BT> a <2en> a"]
    for before, after in zip(lines, noise_lines(lines, delete=1, protect=protect, seed=1), strict=True):
        tags, words = ([w for w in after.split() if w.startswith("<") == is_tag] for is_tag in (True, False))
        assert tags == [w for w in before.split() if w.startswith("<")]
        assert len(words) == (before != "<2en> <BT>")  # one of them is kept


@pytest.mark.parametrize("level", ["word", "char", "subword", "tokenizer char"])
@pytest.mark.parametrize("rates", RATES, ids=str)
def test_protected_words_are_never_touched_nor_put_in(level, rates, tmp_path):
    rng, model = random.Random(5), None
    if level == "subword":
        SentencePieceModel.train([f"{line} <BT> __en__" for line in german(200)], 60, tmp_path / "model.spm")
        model = SentencePieceModel(tmp_path / "model.spm")
    tags = ["<BT>", "__en__"]
    lines = [
        " ".join(w for word in line.split() for w in (word, *rng.sample(tags, rng.randint(0, 1))))
        for line in german(300)
    ]
    more = {"word_tokenizer": "char"} if level == "tokenizer char" else {"level": level}
    noisy = noise_and_count(lines, NoiseOptions(**rates, protect=tags, **more), 1, subword=model)[0]
    for before, after in zip(lines, noisy, strict=True):
        assert [w for w in after.split() if w in tags] == [w for w in before.split() if w in tags]
    assert sum(a != b for a, b in zip(lines, noisy, strict=True)) > 100


def test_protected_words_do_not_count(tmp_path, capsys):
    lines = [f"<BT> {line}" for line in german(500)]
    protected = ["--protect", "__no__", "<BT>"]
    assert noise_files(tmp_path, lines, "--delete", "0.3", *protected) == 0
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    report = manifest["noise"]["zh"]
    assert report["units"] == report["rates"]["delete"]["possible"] == 500 * 6
    assert report["protected"] == {"<BT>": 500, "__no__": 0} and manifest["options"]["protect"] == ["<BT>", "__no__"]
    assert "<BT> is protected and occurs 500 times" in capsys.readouterr().out
    assert noise_files(tmp_path, lines, "--delete", "0.3", *protected[:1], *protected[:0:-1]) == 0  # in any order
    assert noise_files(tmp_path, lines, "--delete", "0.3") == 2  # another request
    assert noise_files(tmp_path, lines, "--delete", "0.3", "--protect", "two words") == 2
    assert "--protect 'two words': must be a word without spaces" in capsys.readouterr().err


def test_a_manifest_of_0_1_0_still_has_the_same_request(tmp_path):
    assert noise_files(tmp_path, german(50), "--delete", "0.3") == 0
    path = tmp_path / "out.manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["options"] == {
        **{"delete": 0.3, "substitute": 0.0, "swap": 0.0, "swap_window": 1, "substitute_from": "unigram"},
        **{"level": "word", "sentence_share": 1.0},
    }
    for name in ("protected", "lines_unsegmented"):
        del manifest["noise"]["zh"][name]
    del manifest["seal"]
    path.write_text(json.dumps(manifest))
    assert noise_files(tmp_path, german(50), "--delete", "0.3") == 0
    assert json.loads(path.read_text()) == manifest


def test_a_tokenizer_of_words_has_no_effect_on_other_levels():
    with pytest.raises(KDError, match="--word-tokenizer char has no effect with --level char"):
        NoiseOptions(delete=0.1, level="char", word_tokenizer="char")
    with pytest.raises(KDError, match="--word-tokenizer mecab: must be one of spaces, char"):
        NoiseOptions(delete=0.1, word_tokenizer="mecab")


def write_data_bin(folder, symbols: list[str], rows: list[list[str]]) -> None:
    """A data-bin of fairseq-preprocess: train.zh-en, both sides alike."""
    from fairseq.data import Dictionary

    folder.mkdir()
    for lang in ("zh", "en"):
        (folder / f"dict.{lang}.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols), encoding="utf-8")
        dictionary = Dictionary.load(str(folder / f"dict.{lang}.txt"))
        writer = SideWriter(folder, f"train.zh-en.{lang}", dictionary)
        for row in rows:
            writer.add(np.array([*map(dictionary.index, row), dictionary.eos()]))
        writer.close()


def symbols_of(folder, lang="zh") -> list[list[str]]:
    from fairseq.data import Dictionary, data_utils

    dictionary = Dictionary.load(str(folder / f"dict.{lang}.txt"))
    dataset = data_utils.load_indexed_dataset(str(folder / f"train.zh-en.{lang}"), dictionary)
    return [[dictionary[i] for i in ids[:-1]] for ids in dataset]


def test_words_of_pieces_without_spaces_are_refused(tmp_path, capsys):
    rows = [["\u2581" + line[:3], *line[3:]] for line in chinese(100)]
    write_data_bin(tmp_path / "data", sorted({symbol for row in rows for symbol in row}), rows)
    words = ["noise", "--data-bin", str(tmp_path / "data"), "--delete", "0.3", "--out", str(tmp_path / "out")]
    assert main([*words, "--post-process", "sentencepiece"]) == 2
    assert "100 of 100 source sentences are in a script without spaces" in capsys.readouterr().err
    assert main([*words, "--post-process", "sentencepiece", "--word-tokenizer", "char"]) == 2
    assert "give a --level and a --word-tokenizer that need no model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "--level", "subword"]) == 0


@pytest.mark.parametrize("level", ["word", "subword"])
@pytest.mark.parametrize("rates", RATES, ids=str)
def test_protected_words_of_a_data_bin_are_symbols_or_made_of_several(tmp_path, level, rates):
    """<BT> is a symbol by itself, at the beginning, within and at the end; __en__ is cut into pieces."""
    rng = random.Random(1)
    words = {"ab": ["\u2581a", "b"], "c": ["\u2581c"], "d": ["\u2581", "d"], "__en__": ["\u2581__", "en", "__"]}
    words["<BT>"] = ["<BT>"]
    names = [rng.choices([*words], weights=[3, 3, 3, 1, 1], k=12) for _ in range(300)]
    rows = [[symbol for name in line for symbol in words[name]] for line in names]
    symbols = sorted({symbol for row in rows for symbol in row})
    write_data_bin(tmp_path / "data", symbols, rows)
    options = [word for name, rate in rates.items() for word in (f"--{name}", str(rate))]
    command = [
        "noise",
        "--data-bin",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "out"),
        "--level",
        level,
        *options,
    ]
    tags = ["<BT>"] if level == "subword" else ["<BT>", "__en__"]  # no --post-process there, so symbols alone
    command += [] if level == "subword" else ["--post-process", "sentencepiece"]
    assert main([*command, "--protect", *tags]) == 0
    noisy = symbols_of(tmp_path / "out")
    for before, after in zip(rows, noisy, strict=True):
        kept = ["<BT>"] if level == "subword" else ["<BT>", "\u2581__", "en", "__"]
        assert [symbol for symbol in after if symbol in kept] == [symbol for symbol in before if symbol in kept]
    report = json.loads((tmp_path / "out" / "manifest.json").read_text())["noise"]["zh"]
    assert report["protected"] == {tag: sum(line.count(tag) for line in names) for tag in tags}
    if level == "word":
        assert report["units"] == sum(name not in tags for line in names for name in line)
    assert sum(a != b for a, b in zip(rows, noisy, strict=True)) > 250


@pytest.fixture(scope="module")
def chinese_data_bin(tmp_path_factory):
    """Made by `prepare`, with a test set; <BT> begins half of the sources."""
    from fairseq_kd.corpus.entry import text_files
    from fairseq_kd.corpus.prepare import prepare
    from fairseq_kd.corpus.prepare_options import PrepareOptions

    folder = tmp_path_factory.mktemp("zh")
    for subset, count in (("train", 300), ("valid", 20), ("test", 60)):
        lines = chinese(count, seed=count)
        write_lines(folder / f"{subset}.zh", [f"<BT> {line}" if i % 2 else line for i, line in enumerate(lines)])
        write_lines(folder / f"{subset}.en", [f"a {line}" for line in lines])
    options = PrepareOptions(vocab_size=70)
    prepare("text", text_files(folder, "zh", "en"), "zh", "en", folder / "data", options, say=lambda line: None)
    return folder / "data"


@pytest.mark.parametrize("more", [{"word_tokenizer": "char"}, {"level": "char"}], ids=str)
def test_characters_of_a_prepared_data_bin_with_protected_words(chinese_data_bin, tmp_path, more):
    from fairseq_kd.corpus.subword import load_subword_models
    from fairseq_kd.noise.data_bin import noise_data_bin

    options = NoiseOptions(delete=0.2, substitute=0.2, swap=0.2, protect=["<BT>"], **more)
    given = {"sides": ("source",), "seed": 1}
    manifest = noise_data_bin(chinese_data_bin, tmp_path / "test", options, subset="test", **given)
    before, after = (
        (folder / "raw" / "test.zh").read_text(encoding="utf-8").splitlines()
        for folder in (chinese_data_bin, tmp_path / "test")
    )
    assert len(before) == len(after) == manifest["sentences"] == 60
    report = manifest["noise"]["zh"]
    assert report["units"] == sum(len(line.removeprefix("<BT> ")) for line in before)
    assert report["protected"] == {"<BT>": 30} and report["lines_changed"] == 60
    assert [line.startswith("<BT> ") for line in after] == [line.startswith("<BT> ") for line in before]
    assert all(line.count("<BT>") == (i % 2) for i, line in enumerate(after))
    noise_data_bin(chinese_data_bin, tmp_path / "train", options, **given)
    model = load_subword_models(chinese_data_bin, "zh", "en")["zh"]
    tag = model.encode("<BT>").split()
    for old, new in zip(symbols_of(chinese_data_bin), symbols_of(tmp_path / "train"), strict=True):
        assert (new[: len(tag)] == tag) == (old[: len(tag)] == tag)
