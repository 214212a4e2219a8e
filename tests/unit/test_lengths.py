"""Cleaning by length, in scripts with and without spaces between words."""

import pytest

from fairseq_kd.corpus.clean import write_clean_text
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.text import CleaningRules, SubsetFiles, read_lines, write_lines

ENGLISH = "the doctor saw a very old book in that house yesterday ."  # 12 words
UNSPACED = {  # each of 14 characters or more, so more than 9 to 1 in words
    "Han": "昨天医生在那座房子里看见一本书。",
    "Hiragana": "きのうせんせいがふるいほんをみた",
    "Katakana": "キノウセンセイガフルイホンヲミタ",
    "Thai": "เมื่อวานหมอเห็นหนังสือเก่ามากในบ้านหลังนั้น",
    "Lao": "ມື້ວານນີ້ທ່ານໝໍໄດ້ເຫັນປຶ້ມເກົ່າໃນເຮືອນ",
    "Khmer": "ម្សិលមិញវេជ្ជបណ្ឌិតបានឃើញសៀវភៅចាស់",
    "Myanmar": "မနေ့ကဆရာဝန်သည်စာအုပ်ဟောင်းကိုတွေ့ခဲ့သည်",
}


def clean(tmp_path, source: list[str], target: list[str], name="clean", **given):
    """(pairs kept, report)"""
    for lang, lines in (("xx", source), ("yy", target)):
        write_lines(tmp_path / f"in.{lang}", lines)
    files = SubsetFiles("in", tmp_path / "in.xx", tmp_path / "in.yy")
    options = PrepareOptions(**given)
    goal = {"train": tmp_path / name}
    report, _ = write_clean_text(files, ("xx", "yy"), options, goal, "reading", training=True)
    kept = zip(*(read_lines(tmp_path / f"{name}.{lang}") for lang in ("xx", "yy")), strict=True)
    return list(kept), report


@pytest.mark.parametrize("script", UNSPACED)
@pytest.mark.parametrize("side", ["source", "target"])
def test_good_pairs_are_kept_and_bad_ones_dropped_in_every_script_without_spaces(tmp_path, script, side):
    line = UNSPACED[script]
    # pair 21 has a long side where the script has one character, pair 22 a short one, pair 23 none
    foreign, english = [line] * 20 + [line[0], line * 9, ""], [ENGLISH] * 20 + [ENGLISH, "book", ENGLISH]
    sides = (foreign, english) if side == "source" else (english, foreign)
    kept, report = clean(tmp_path, *sides)
    assert kept == list(zip(*sides, strict=True))[:20]
    assert report.first_lines == {"uneven_length": [21, 22], "empty": [23]}


def test_characters_to_a_word_are_the_median_of_the_pairs(tmp_path):
    """4, 6 and 8 characters to 2 words: 3 to a word. So 21 characters are 7 words, and 22 more than 7."""
    source = ["a b", "a b", "a b", "a b", "a b"]
    target = ["狗" * 4, "狗" * 6, "狗" * 8, "狗" * 21, "狗" * 3]
    kept, report = clean(tmp_path, source, target, rules=CleaningRules(max_words=7))
    assert len(kept) == 5 and report.measured == {"xx": "words", "yy": "characters, 3 to a word"}
    target[3] += "狗"
    kept, report = clean(tmp_path, source, target, rules=CleaningRules(max_words=7))
    assert report.first_lines == {"too_long": [4]}
    assert report.describe() == (
        "5 pairs read, 4 kept; 1 too long, by --max-words 7 (lines 4); "
        "lengths: xx in words, yy in characters, 3 to a word"
    )
    # 3 characters are 1 word: half of the other side. 22 characters are 7.3 words, 3.7 times the other side
    kept, report = clean(tmp_path, source, target, rules=CleaningRules(max_ratio=3.5))
    assert report.first_lines == {"uneven_length": [4]}
    assert "1 uneven in length, by --max-ratio 3.5 (lines 4)" in report.describe()
    assert report.as_dict()["rules"] == {"max_words": 175, "max_ratio": 3.5}


def test_two_scripts_without_spaces_are_compared_by_characters(tmp_path):
    """Two kana to a Chinese character; lengths are in characters of the source."""
    source, target = ["狗" * 6] * 5 + ["狗" * 6, "狗" * 21], ["いぬ" * 6] * 5 + ["いぬ" * 13, "いぬ" * 21]
    _, report = clean(tmp_path, source, target, rules=CleaningRules(max_words=20, max_ratio=2))
    assert report.measured == {"xx": "characters, 1 to a word", "yy": "characters, 2 to a word"}
    assert report.first_lines == {"uneven_length": [6], "too_long": [7]}


@pytest.mark.parametrize(
    "lines",
    [
        ["他 是 一个 医生 。"] * 3,  # segmented
        ["ฉัน เห็น หนังสือ เก่า"] * 3,
        ["der Hund heißt 狗"] * 3 + ["狗在公园里看见很多花"],  # most letters are of another script
        ["그는 의사 입니다"] * 3,  # written with spaces
        ["1 2 3 4 ..."] * 3,
        [""] * 3,
    ],
)
def test_text_with_spaces_is_counted_in_words(tmp_path, lines):
    _, report = clean(tmp_path, [*lines, "ende"], [*["a b c d"] * len(lines), "ende"])
    assert report.measured == {"xx": "words", "yy": "words"}
    assert "lengths" not in report.describe()


def test_the_number_of_processes_and_the_rest_of_the_file_change_nothing(tmp_path):
    pytest.importorskip("sacremoses")
    source, target = [UNSPACED["Han"]] * 1200, [ENGLISH] * 1200
    reports = [
        clean(tmp_path, source, target, f"by{workers}", form="tokenised", workers=workers)[1] for workers in (1, 2)
    ]
    assert reports[0] == reports[1] and reports[0].kept == 1200
    later = clean(tmp_path, [*source, *["a"] * 2000], [*target, *["a"] * 2000], form="tokenised")[1]
    assert later.measured == reports[0].measured
