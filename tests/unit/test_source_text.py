"""`fairseq-kd decode --source-text`: which lines become sentences, and that `decode` makes the same of them."""

import bz2
import gzip
import lzma
import multiprocessing
import os
import random
import signal
import time
from itertools import islice

import numpy as np
import pytest
import torch
from cache_helpers import content
from docs_helpers import blocks_run_by
from fairseq.data import Dictionary

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.like import Like
from fairseq_kd.corpus.prepare import prepare
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.source_text import Seen, describe_text, hash_lines, make_sources
from fairseq_kd.corpus.text import SubsetFiles
from fairseq_kd.inference.opening import open_data
from fairseq_kd.sequence.decode import decode
from fairseq_kd.sequence.decode_options import DecodeOptions
from fairseq_kd.sequence.mix import mix
from fairseq_kd.sequence.source_text import decode_text

LANGUAGES = ("qaa", "qab")
PAIR = "qaa-qab"


@pytest.fixture(scope="module")
def sentences(corpus):
    """60 different training sources that are in no evaluation set."""
    lines = {name: (corpus / f"{name}.qaa").read_text().splitlines() for name in ("train", "valid", "test")}
    found = [line for line in dict.fromkeys(lines["train"]) if line not in (*lines["valid"], *lines["test"])]
    return found[:60]


def write(path, lines) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def options(**more) -> DecodeOptions:
    return DecodeOptions(**{"cpu": True, "fallback": "drop", "max_len_b": 20} | more)


def quiet(files, like, teacher, out, how=None, **more):
    return decode_text(files, like, str(teacher), out, how or options(), say=lambda line: None, **more)


def side(folder, lang) -> bytes:
    return b"".join((folder / f"train.{PAIR}.{lang}.{kind}").read_bytes() for kind in ("bin", "idx"))


def test_it_is_what_prepare_and_decode_make_of_the_same_sentences(sentences, corpus, data_bin, teacher, tmp_path):
    """`prepare` reads the sentences with made-up targets; those that it drops are dropped from the text too."""
    text = [*sentences[:20], "", " ".join(["wu"] * 176), *sentences[20:]]
    write(tmp_path / "train.qaa", text)
    write(tmp_path / "train.qab", text)
    files = {"train": SubsetFiles("train", tmp_path / "train.qaa", tmp_path / "train.qab")}
    prepare("text", files, *LANGUAGES, tmp_path / "pairs", PrepareOptions(like=str(data_bin)), say=lambda line: None)
    for name, how in {
        "beam": {},
        "nbest": {"nbest": 3, "drop_copies": True},
        "greedy": {"strategy": "greedy"},
        "sample": {"strategy": "sample"},
    }.items():
        expected = decode(tmp_path / "pairs", str(teacher), tmp_path / f"{name}-of-pairs", options(**how), say=str)
        found = quiet([tmp_path / "train.qaa"], data_bin, teacher, tmp_path / name, options(**how))
        for lang in LANGUAGES:
            assert side(tmp_path / name, lang) == side(tmp_path / f"{name}-of-pairs", lang), name
        hypotheses = "train.hypotheses.qab.tsv"
        assert (tmp_path / name / hypotheses).read_bytes() == (tmp_path / f"{name}-of-pairs" / hypotheses).read_bytes()
        assert found["pairs"] == expected["pairs"] and found["sentences"] == expected["sentences"] == 60
    assert found["cleaning"]["dropped"] == {"empty": 1, "too_long": 1}


def test_each_line_is_kept_or_dropped_for_a_reason_across_plain_and_compressed_files(
    sentences, corpus, data_bin, teacher, tmp_path
):
    a, b, c, d = sentences[:4]
    tested = (corpus / "test.qaa").read_text().splitlines()[0]
    first = tmp_path / "first.txt"
    first.write_bytes(f"{a}\n\n  {b}\t\n".encode() + b"\xff\xfe\n" + f"{a}\n{tested}\n".encode())
    others = []
    for name, opened, lines in (("gz", gzip.open, [b, c]), ("xz", lzma.open, [d]), ("bz2", bz2.open, [c, "wu " * 200])):
        others.append(tmp_path / f"more.{name}")
        with opened(others[-1], "wt") as file:
            file.write("\n".join(lines))  # the last line has no newline
    manifest = quiet([first, *others], data_bin, teacher, tmp_path / "out")
    assert (tmp_path / "out" / "train.lines.tsv").read_text().splitlines() == [
        "1\t1\t0", "1\t2\tempty", "1\t3\t1", "1\t4\tbad_utf8", "1\t5\tduplicate", "1\t6\tevaluation",
        "2\t1\tduplicate", "2\t2\t2", "3\t1\t3", "4\t1\tduplicate", "4\t2\ttoo_long",
    ]  # fmt: skip
    cleaning = manifest["cleaning"]
    assert (cleaning["read"], cleaning["kept"], cleaning["max_words"]) == (11, 4, 175)
    dropped = {"bad_utf8": 1, "empty": 1, "too_long": 1, "evaluation": 1, "duplicate": 3}
    assert cleaning["dropped"] == dropped
    assert cleaning["evaluation_sets"] == ["test.qaa", "valid.qaa"]
    task = open_data(tmp_path / "out", LANGUAGES, "train")
    found = [task.source_dictionary.string(row, bpe_symbol="sentencepiece") for row in task.dataset("train").src]
    assert found == [a, b, c, d]


def test_mix_joins_it_with_the_original_and_the_rest_is_the_originals(sentences, data_bin, teacher, tmp_path):
    quiet([write(tmp_path / "text", sentences)], data_bin, teacher, tmp_path / "out")
    mixed = mix([data_bin, tmp_path / "out"], [1, 2], tmp_path / "mixed")
    assert mixed["pairs_of_each"] == [400, 120]
    for name in (f"valid.{PAIR}.qab.bin", f"test.{PAIR}.qaa.idx", "dict.qab.txt", "raw/test.qab"):
        assert (tmp_path / "out" / name).read_bytes() == (data_bin / name).read_bytes()
    again = quiet([tmp_path / "text"], tmp_path / "mixed", teacher, tmp_path / "like-mixed")
    assert again["pairs"] == 60 and side(tmp_path / "like-mixed", "qab") == side(tmp_path / "out", "qab")


def test_a_teacher_of_the_other_direction_translates_text_in_its_own_source_language(
    corpus, data_bin, teacher, tmp_path
):
    state = torch.load(teacher)
    state["cfg"]["task"] |= {"source_lang": LANGUAGES[1], "target_lang": LANGUAGES[0]}
    torch.save(state, tmp_path / "back.pt")
    tested = (corpus / "test.qab").read_text().splitlines()[0]
    line = next(line for line in (corpus / "train.qab").read_text().splitlines() if line != tested)
    found = quiet([write(tmp_path / "text", [line, tested])], data_bin, tmp_path / "back.pt", tmp_path / "out")
    assert (found["source_lang"], found["target_lang"], found["pairs"]) == ("qab", "qaa", 1)
    assert found["cleaning"]["dropped"] == {"evaluation": 1}
    task = open_data(tmp_path / "out", ("qab", "qaa"), "train")
    assert task.source_dictionary.string(task.dataset("train").src[0], bpe_symbol="sentencepiece") == line
    assert sorted(path.name for path in (tmp_path / "out").glob("train.*.bin")) == [
        "train.qab-qaa.qaa.bin", "train.qab-qaa.qab.bin",
    ]  # fmt: skip


def test_killed_at_random_moments_it_goes_on_to_the_same_bytes_also_in_shards(sentences, data_bin, teacher, tmp_path):
    files = [write(tmp_path / "a", sentences[:40]), write(tmp_path / "b", sentences[20:])]

    def in_a_process(out, seconds=None):
        process = multiprocessing.get_context("fork").Process(
            target=quiet, args=(files, data_bin, teacher, out), kwargs={"block_sentences": 5}
        )
        started = time.monotonic()
        process.start()
        process.join(seconds)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        return process.exitcode, time.monotonic() - started

    code, duration = in_a_process(tmp_path / "whole")
    assert code == 0 and not (tmp_path / "whole" / "parts").exists()
    rng, codes = random.Random(2), []
    for attempt in range(3):
        codes += [in_a_process(tmp_path / str(attempt), rng.uniform(0.1, 0.8) * duration)[0] for _ in range(2)]
        quiet(files, data_bin, teacher, tmp_path / str(attempt), block_sentences=5)
        assert content(tmp_path / str(attempt)) == content(tmp_path / "whole")
    assert codes.count(-signal.SIGKILL) >= 2
    shards = [quiet(files, data_bin, teacher, tmp_path / "s", shard=(n, 3), block_sentences=5) for n in range(3)]
    assert shards[:2] == [None, None] and content(tmp_path / "s") == content(tmp_path / "whole")
    assert quiet(files, data_bin, teacher, tmp_path / "whole", block_sentences=5) == shards[2]  # kept as it is


def test_another_text_or_another_data_bin_is_another_request(sentences, data_bin, teacher, tmp_path):
    text = write(tmp_path / "text", sentences[:5])
    quiet([text], data_bin, teacher, tmp_path / "out")
    before = content(tmp_path / "out")
    write(tmp_path / "text", sentences[:6])
    with pytest.raises(KDError, match=r"out was made with source_text\.sha256 .* one decoded data-bin is made from"):
        quiet([text], data_bin, teacher, tmp_path / "out")
    with pytest.raises(KDError, match="out was made with .*, this command has"):
        decode(data_bin, str(teacher), tmp_path / "out", options(), say=str)
    assert content(tmp_path / "out") == before


def test_a_sentence_without_an_answer_is_dropped_and_counted(sentences, data_bin, teacher, tmp_path, monkeypatch):
    """The teacher answers nothing, which drops every sentence but one."""
    from fairseq_kd.sequence import source_text
    from fairseq_kd.sequence.decode_options import Hypothesis

    class OnlyTheSecond:
        name, max_tokens = "only", 1

        def translate(self, numbers, advance):
            return {int(n): [Hypothesis(np.array([9] * int(n == 1), dtype=int), -1.0)] for n in numbers}

    monkeypatch.setattr(source_text, "choose_backend", lambda *arguments: OnlyTheSecond())
    text = write(tmp_path / "text", sentences[:4])
    manifest = quiet([text], data_bin, teacher, tmp_path / "out")
    assert manifest["dropped"] == {"empty": 3} and manifest["fallbacks"] == {} and manifest["pairs"] == 1
    assert (tmp_path / "out" / "train.kept.txt").read_text() == "1\n"
    with pytest.raises(KDError, match=r"nothing for sentence 0, .*\(--fallback drop leaves such sentences out\)"):
        quiet([text], data_bin, teacher, tmp_path / "error", options(fallback="error"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"strategy": "teacher-forcing", "max_len_b": None}, "reads gold targets.*--strategy beam or greedy or sample"),
        ({"select": "closest", "nbest": 2}, "--select closest compares with gold targets"),
        ({"fallback": "reference"}, "--fallback reference writes gold targets.*give --fallback drop or error"),
        ({"subset": "valid"}, "--subset valid has no effect with --source-text"),
    ],
)
def test_what_needs_gold_targets_is_refused_with_the_reason(sentences, data_bin, teacher, tmp_path, how, message):
    with pytest.raises(KDError, match=message):
        quiet([write(tmp_path / "text", sentences)], data_bin, teacher, tmp_path / "out", options(**how))
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_clear_error(sentences, data_bin, teacher, tmp_path):
    text = write(tmp_path / "text", sentences)
    (tmp_path / "taken").mkdir()
    write(tmp_path / "taken" / "mine", ["mine"])
    (tmp_path / "stock").mkdir()
    for files, like, out, message in (
        ([tmp_path / "no"], data_bin, "out", "--source-text .*no is not there"),
        ([tmp_path], data_bin, "out", "is not a file that can be read twice"),
        ([text, text], data_bin, "out", "text is given twice"),
        ([write(tmp_path / "empty", ["", " "])], data_bin, "out", "leaves no usable line: 2 lines read, 0 kept, 2 em"),
        ([text], tmp_path / "no", "out", "--like .*no is not a folder"),
        ([text], tmp_path / "stock", "out", "--like .*stock does not say how its text became subwords"),
        ([text], data_bin, "taken", "taken already holds 'mine' and is not a decoded data-bin: choose another --out"),
    ):
        with pytest.raises(KDError, match=message):
            quiet(files, like, teacher, tmp_path / out)
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["mine"]


def test_the_commands_about_monolingual_text(sentences, data_bin, teacher, tmp_path, monkeypatch, capsys):
    (block,) = blocks_run_by("test_the_commands_about_monolingual_text")
    monkeypatch.chdir(tmp_path)
    for name, target in (("data-bin/mine", data_bin), ("teacher/checkpoint_best.pt", teacher)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(target)
    with gzip.open("news.txt.gz", "wt") as file:
        file.write("\n".join(sentences[:7]))
    write(tmp_path / "web.txt", sentences[5:9])
    for command in block.commands():
        name, *words = command.split()
        assert name == "fairseq-kd" and main(words) == 0
    said = capsys.readouterr().out
    assert "9 pairs of 9 sentences" in said and "11 lines read, 9 kept, 2 repeated" in said
    assert len(open_data("data-bin/more", LANGUAGES, "train").dataset("train")) == 409


def test_on_the_command_line(sentences, data_bin, teacher, tmp_path, capsys):
    text, data_bin = write(tmp_path / "text", [*sentences[:5], sentences[0]]), str(data_bin)
    words = ["decode", "--teacher", str(teacher), "--out", str(tmp_path / "out"), "--cpu", "--max-len-b", "9"]
    for more, message in (
        ([], "give either DATA_BIN or --source-text FILE --like DATA_BIN as the sentences: neither is given"),
        ([data_bin, "--source-text", text], "as the sentences: both are given"),
        (["--source-text", text], "--source-text needs --like DATA_BIN"),
        ([data_bin, "--like", data_bin], "has no effect without --source-text"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert main([*words, "--source-text", text, "--like", data_bin]) == 0
    said = capsys.readouterr().out
    assert "out is complete: 5 pairs of 5 sentences" in said
    assert "of the text: 6 lines read, 5 kept, 1 repeated; " in said
    assert f"next: fairseq-kd mix {data_bin} {tmp_path / 'out'} --out MIXED" in said


def test_hashes_of_lines_are_new_once(tmp_path):
    rng, seen, known = random.Random(1), Seen(), set()
    for _ in range(40):
        lines = [str(rng.randrange(3000)) for _ in range(rng.randrange(1, 200))]
        expected = []
        for line in lines:
            expected.append(line not in known)
            known.add(line)
        assert seen.add(hash_lines(lines)).tolist() == expected
    assert not seen.lacks(hash_lines(islice(known, 50))).any() and seen.lacks(hash_lines(["new"])).all()
    assert sum(map(len, seen._runs)) == len(known)  # 8 bytes per different line


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("cased", ["0", "1", "special_word"]),
        ("lower-cased", ["0", "duplicate", "1"]),  # Moses cuts </s> into several words
    ],
)
def test_the_text_has_the_form_of_the_data_bin_and_no_word_is_a_symbol_of_fairseq(corpus, tmp_path, form, expected):
    pytest.importorskip("sacremoses")
    text = "Na kilo na tose .\n"
    for lang in LANGUAGES:
        (tmp_path / f"train.{lang}").write_text(text)
    words = PrepareOptions(subword="none", form=form)
    pair = {"train": SubsetFiles("train", tmp_path / "train.qaa", tmp_path / "train.qab")}
    prepare("text", pair, *LANGUAGES, tmp_path / "words", words, say=str)
    files = [write(tmp_path / "text", [text.strip(), text.strip().upper(), "na </s>"])]
    with Inputs() as inputs:
        like, described = Like(tmp_path / "words", LANGUAGES), describe_text(files, tmp_path / "words", inputs)
        make_sources(files, like, described, tmp_path / "sources", inputs, say=str)
    rows = [row.split("\t")[2] for row in (tmp_path / "sources" / "train.lines.tsv").read_text().splitlines()]
    assert rows == expected
    first = open_data(tmp_path / "sources", LANGUAGES, "train", needs_target=False).dataset("train").src[0]
    spelled = Dictionary.load(str(tmp_path / "words" / "dict.qaa.txt")).string(first)
    assert spelled == (text.strip() if form == "cased" else text.strip().lower())


def test_a_process_whose_work_another_one_finishes_returns_the_finished_data(sentences, data_bin, teacher, tmp_path):
    """The other process removes the parts, and with them the sources that this one has opened."""
    from fairseq_kd.sequence import source_text

    text, choose = [write(tmp_path / "text", sentences[:9])], source_text.choose_backend

    def meanwhile(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(source_text, "choose_backend", choose)
            done.append(quiet(text, data_bin, teacher, tmp_path / "out"))
        return choose(*arguments)

    done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_text, "choose_backend", meanwhile)
        assert quiet(text, data_bin, teacher, tmp_path / "out") == done[0]
    assert len(done) == 1 and not (tmp_path / "out" / "parts").exists()


def test_a_lock_that_is_held_is_not_tried_again(sentences, data_bin, tmp_path, monkeypatch):
    """It waited for itself for half a second in each command. What a killed run has left is removed all the same."""
    files, like = [write(tmp_path / "text", sentences)], Like(data_bin, LANGUAGES)
    leftover = tmp_path / ".sources.part-1234"
    leftover.mkdir()
    monkeypatch.setattr("fairseq_kd.artifacts.folders.exclusive", lambda path: pytest.fail(f"locks {path} again"))
    with Inputs() as inputs:
        described = describe_text(files, data_bin, inputs)
        made = make_sources(files, like, described, tmp_path / "sources", inputs, say=str)
        again = make_sources(files, like, described, tmp_path / "sources", inputs, say=str)
    assert made.items() <= again.items() and made["cleaning"]["kept"] == 60 and not leftover.exists()
