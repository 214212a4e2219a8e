"""fairseq-kd translate: the translations of evaluate and export, from plain text, as streams and as files."""

import importlib.util
import json
import math
import os
import shlex
import shutil
from types import SimpleNamespace

import pytest
from conftest import run_fairseq
from docs_helpers import blocks_run_by

from fairseq_kd.cli.main import main
from fairseq_kd.corpus.plain import form_of, make_plain_text, split_line
from fairseq_kd.corpus.subword import WordModel, load_decoder
from fairseq_kd.evaluation.evaluate import evaluate
from fairseq_kd.evaluation.system import TranslateOptions, open_system
from fairseq_kd.evaluation.translate import Notices, translate, translate_stream
from fairseq_kd.evaluation.translate_file import FileWork
from fairseq_kd.evaluation.translator import open_translator

SHORT = TranslateOptions(max_len_b=20, cpu=True)
WORDS = ("--cpu", "--max-len-b", 20)


@pytest.fixture(scope="module")
def expected(data_bin, teacher) -> list[str]:
    """The hypotheses of evaluate."""
    return evaluate(data_bin, teacher, "test", SHORT)["hypotheses"]


@pytest.fixture(scope="module")
def translator(data_bin, teacher):
    return open_translator(teacher, data_bin, SHORT)


@pytest.fixture
def text(data_bin):
    return data_bin / "raw" / "test.qaa"


def run(*words) -> int:
    return main(["translate", *map(str, (*words, *WORDS))])


def standard_input(monkeypatch, content: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    monkeypatch.setattr("sys.stdin", open(reading))  # noqa: SIM115


def test_a_file_gives_the_hypotheses_of_evaluate(data_bin, teacher, text, expected, tmp_path, capsys):
    assert run(teacher, text, "--data", data_bin) == 0
    assert capsys.readouterr().out.splitlines() == expected
    assert run(teacher, text, "--data", data_bin, "--out", tmp_path / "new" / "out.txt") == 0
    assert (tmp_path / "new" / "out.txt").read_text().splitlines() == expected
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.txt"]
    capsys.readouterr()
    assert main(["translate", str(teacher), "--data", str(data_bin), *map(str, WORDS), str(text)]) == 0
    assert capsys.readouterr().out.splitlines() == expected
    with pytest.raises(SystemExit):
        run(teacher, text, "--data", data_bin, "--colour")
    assert "unrecognized arguments: --colour" in capsys.readouterr().err
    assert translate(text.read_text().splitlines(), teacher, data_bin, options=SHORT) == expected
    assert len(set(expected)) > 5


def test_empty_lines_stay_in_their_places(translator, text, expected):
    lines = text.read_text().splitlines()[:4]
    lines = ["", lines[0], "  \u200b ", *lines[1:], ""]
    assert [found.text for found in translator.translate(lines)] == ["", expected[0], "", *expected[1:4], ""]
    assert translator.translate([""])[0].hypotheses == [("", 0.0)]
    assert translator.translate([]) == []


def test_a_pipe_is_answered_line_by_line_and_a_buffer_waits(translator, text, expected):
    for buffer in (1, 3):
        written = []

        def lines(buffer=buffer, written=written):
            for number, line in enumerate(text.read_bytes().splitlines()[:7]):
                answered = number - number % buffer
                assert "".join(written).splitlines() == expected[:answered]
                yield line

        how = {"name": "-", "format": "text", "notices": Notices(written.append, SHORT), "buffer": buffer}
        translate_stream(translator, lines(), written.append, **how)
        assert "".join(written).splitlines() == expected[:7]


def test_a_stream_ends_when_nobody_reads_it(translator, text):
    written = []
    how = {"name": "-", "format": "text", "notices": Notices(written.append, SHORT), "buffer": 1}
    translate_stream(translator, iter(text.read_bytes().splitlines()), written.append, lambda: len(written) == 2, **how)
    assert len(written) == 2


def test_standard_input(data_bin, teacher, text, expected, tmp_path, capsys, monkeypatch):
    standard_input(monkeypatch, b"\n".join(text.read_bytes().splitlines()[:3]))  # no newline at the end
    assert run(teacher, "--data", data_bin) == 0
    assert capsys.readouterr().out.splitlines() == expected[:3]
    monkeypatch.setattr("sys.stdin", open(text))  # noqa: SIM115
    assert run(teacher, "-", "--data", data_bin, "--out", tmp_path / "out.txt", "--buffer", 7) == 0
    assert (tmp_path / "out.txt").read_text().splitlines() == expected
    standard_input(monkeypatch, text.read_bytes().splitlines()[0] + b"\nb\xff\n")
    assert run(teacher, "--data", data_bin) == 2
    out, error = capsys.readouterr()
    assert out.splitlines()[1:] == expected[:1] and "line 2 of standard input is not UTF-8" in error
    monkeypatch.setattr("sys.stdin", None)
    assert run(teacher, "--data", data_bin) == 2
    assert "standard input is closed" in capsys.readouterr().err


def test_scores_and_nbest_are_those_of_fairseq_generate(data_bin, teacher, text, tmp_path):
    """fairseq-generate prints the score in base 2."""
    generate = run_fairseq(
        "generate",
        data_bin,
        *("--path", teacher, "--cpu", "--required-batch-size-multiple", "1", "--beam", "5", "--nbest", "3"),
        *("--max-len-b", "20", "--lenpen", "0.7"),
    )
    lines = [line.split("\t") for line in generate.stdout.splitlines() if line.startswith("H-")]
    lines.sort(key=lambda line: int(line[0][2:]))  # stable: the ranks stay in order
    decode = load_decoder("sentencepiece")
    words = (teacher, text, "--data", data_bin, "--nbest", 3, "--lenpen", 0.7)
    assert run(*words, "--format", "tsv", "--out", tmp_path / "a.tsv") == 0
    rows = [line.split("\t") for line in (tmp_path / "a.tsv").read_text().splitlines()]
    assert [row[:2] for row in rows] == [[str(n), str(rank)] for n in range(1, 31) for rank in (1, 2, 3)]
    assert [row[3] for row in rows] == [decode(line[2]) for line in lines]
    theirs = [float(line[1]) * math.log(2) for line in lines]
    assert [float(row[2]) for row in rows] == pytest.approx(theirs, abs=1e-4)
    assert run(*words, "--format", "jsonl", "--out", tmp_path / "a.jsonl") == 0
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["source"] for row in found] == text.read_text().splitlines()
    assert [one["text"] for row in found for one in row["hypotheses"]] == [row[3] for row in rows]


def test_a_killed_command_continues_with_the_blocks_that_are_missing(
    data_bin, teacher, text, expected, tmp_path, monkeypatch, capsys
):
    out, done, part = tmp_path / "out.txt", [], FileWork.part
    words = (teacher, text, "--data", data_bin, "--out", out, "--buffer", 8)

    def interrupted(work, block, advance):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(block.number)
        return part(work, block, advance)

    monkeypatch.setattr(FileWork, "part", interrupted)
    assert run(*words) == 130
    assert not out.exists() and done == [0, 1]
    assert run(*words, "--beam", 2) == 2  # other options
    assert ".out.txt.translation was made with decoding.beam 5, this command has 2" in capsys.readouterr().err
    monkeypatch.setattr(FileWork, "part", lambda *given: [done.append(given[1].number), part(*given)][1])
    assert run(*words) == 0
    assert done == [0, 1, 2, 3] and out.read_text().splitlines() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_an_empty_file_and_a_compressed_one(data_bin, teacher, text, expected, tmp_path):
    import gzip

    (tmp_path / "empty").touch()
    (tmp_path / "text.gz").write_bytes(gzip.compress(text.read_bytes()))
    for name, lines in (("empty", []), ("text.gz", expected)):
        assert run(teacher, tmp_path / name, "--data", data_bin, "--out", tmp_path / "out") == 0
        assert (tmp_path / "out").read_text().splitlines() == lines


def test_a_long_line_is_refused_or_translated_in_parts(data_bin, teacher, text, tmp_path, capsys):
    lines = text.read_text().splitlines()
    (tmp_path / "text").write_text(f"{lines[0]}\n{' '.join(lines[1:4])}\n{lines[4]}\n")
    words = (teacher, tmp_path / "text", "--data", data_bin)
    translator = open_translator(teacher, data_bin, SHORT)
    count = [len(translator.text.encode(line).split()) + 1 for line in lines]
    limit = max(count[:5])
    assert run(*words, "--max-tokens", limit) == 2
    assert f"line 2 has {sum(count[1:4]) - 2} source tokens" in capsys.readouterr().err
    assert run(*words, "--max-tokens", limit, "--long-lines", "split", "--format", "jsonl") == 0
    out, error = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [row["parts"] > 1 for row in found] == [False, True, False] and "note: line 2 too long" in error
    parts = list(split_line(" ".join(lines[1:4]), lambda part: len(translator.text.encode(part).split()) < limit))
    assert len(parts) == found[1]["parts"] and " ".join(parts) == " ".join(lines[1:4])
    together = " ".join(filter(None, (one.text for one in translator.translate(parts))))
    assert found[1]["hypotheses"] == [{"text": together, "score": None}]


@pytest.mark.parametrize(
    ("line", "limit", "parts"),
    [
        ("one two", 7, ["one two"]),
        ("one two three", 7, ["one two", "three"]),
        ("one two three", 8, ["one two", "three"]),
        ("ab. cd ef gh", 6, ["ab.", "cd ef", "gh"]),  # a sentence ends in the second half of what fits
        ("a. bc de fg", 8, ["a. bc de", "fg"]),  # ... not in its second half
        ("ab. cd. ef. gh", 8, ["ab. cd.", "ef. gh"]),
        ("abcdefg hi", 3, ["abc", "def", "g", "hi"]),
        ("\u4e00\u4e8c\u3002\u4e09\u56db\u3002", 4, ["\u4e00\u4e8c\u3002", "\u4e09\u56db\u3002"]),
        ("ab", 0, ["a", "b"]),  # nothing fits: the caller finds out
    ],
)
def test_a_line_is_cut_after_a_sentence_else_after_a_word(line, limit, parts):
    assert list(split_line(line, lambda part: len(part) <= limit)) == parts


def test_half_precision_is_that_of_the_weights(data_bin, teacher, text, expected):
    """bfloat16 can be tried on a CPU from Python."""
    lines = text.read_text().splitlines()
    translator = open_translator(teacher, data_bin, SHORT, dtype="bfloat16")
    found = [one.text for one in translator.translate(lines)]
    assert sum(ours == theirs for ours, theirs in zip(found, expected, strict=True)) > 15


def test_a_translation_without_its_end_is_told(data_bin, teacher, text, capsys):
    words = ["translate", teacher, text, "--data", data_bin, "--cpu", "--max-len-b", 2, "--format", "tsv"]
    assert main([*map(str, words)]) == 0
    error = capsys.readouterr().err
    assert "allow, so its end may be missing" in error and "--max-len-b 2" in error


def test_text_of_a_tokenised_data_bin_is_tokenised_and_back():
    pytest.importorskip("sacremoses")
    plain = make_plain_text(WordModel(), WordModel.decode, form_of({"form": "lower-cased"}, False, "."), ("en", "en"))
    assert plain.encode(plain.form("  It's \t fine.\r")) == "it &apos;s fine ."
    assert plain.decode("it &apos;s fine .") == "it's fine."
    assert plain.form("") == ""
    plain = make_plain_text(WordModel(), WordModel.decode, form_of({"form": "lower-cased"}, True, "."), ("en", "en"))
    assert plain.encode(plain.form("it &apos;s fine .")) == plain.decode("it &apos;s fine .") == "it &apos;s fine ."


def test_a_word_that_is_a_symbol_of_fairseq_is_refused_without_subwords(teacher, data_bin, tmp_path, capsys):
    plain = tmp_path / "plain"
    shutil.copytree(data_bin, plain, ignore=shutil.ignore_patterns("manifest.json", "subword", "raw"))
    (tmp_path / "text").write_text("a\nb </s> c\n")
    assert run(teacher, tmp_path / "text", "--data", plain, "--subword-model", "none") == 2
    assert "line 2: the text holds the word </s>" in capsys.readouterr().err


def test_a_data_bin_without_a_subword_model_needs_one(data_bin, teacher, text, expected, tmp_path, capsys):
    plain = tmp_path / "plain"
    shutil.copytree(data_bin, plain, ignore=shutil.ignore_patterns("manifest.json", "subword", "raw"))
    assert run(teacher, text, "--data", plain) == 2
    assert "plain has no subword model" in capsys.readouterr().err
    model = next((data_bin / "subword").iterdir())
    assert run(teacher, text, "--data", plain, "--subword-model", model) == 0
    assert capsys.readouterr().out.splitlines() == expected
    assert run(teacher, text, "--data", data_bin, "--subword-model", model) == 2
    assert "has its own subword model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nbest", 2], "give --format tsv or jsonl"),
        (["--nbest", 6, "--format", "tsv"], "--nbest 6 is more than --beam 5"),
        (["--nbest", 0], "--nbest 0: must be at least 1"),
        (["--buffer", 0], "--buffer 0: must be at least 1"),
        (["--beam", 0], "--beam 0: must be at least 1"),
        (["--bf16"], "--bf16 is for CUDA"),
        (["--fp16"], "--fp16 is for CUDA"),
        (["--fp16", "--bf16"], "--fp16"),
        (["--trust-checkpoint", "x.pt"], "is not the MODEL"),
        (["--in-form"], "--in-form has no effect"),
        (["--out", "TEXT"], "is the text itself"),
        (["--out", "/dev/null/x"], "cannot write to"),
        (["--data", "no-folder"], "no-folder"),
        (["--subword-model", "gone.spm", "--data", "PLAIN"], "gone.spm is not there"),
    ],
)
def test_bad_options_are_one_error(data_bin, teacher, text, tmp_path, capsys, words, message):
    shutil.copyfile(text, tmp_path / "text")
    places = {"TEXT": tmp_path / "text", "PLAIN": tmp_path / "plain"}
    if "PLAIN" in words:
        shutil.copytree(data_bin, tmp_path / "plain", ignore=shutil.ignore_patterns("manifest.json", "subword", "raw"))
    words = [places.get(word, word) for word in words]
    assert run(teacher, tmp_path / "text", "--data", data_bin, *words) == 2
    out, error = capsys.readouterr()
    assert message in error and error.count("fairseq_kd: error: ") == 1 and out == ""
    assert (tmp_path / "text").read_bytes() == text.read_bytes()


def test_what_is_missing_is_one_error(data_bin, teacher, text, tmp_path, capsys):
    for words, message in (
        ((teacher, tmp_path / "gone", "--data", data_bin), "gone is not there"),
        ((teacher, text), "--data DATA_BIN"),
        ((tmp_path / "gone.pt", text, "--data", data_bin), "gone.pt"),
        ((data_bin, text), "is a folder, but not an exported model"),
    ):
        assert run(*words) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("fairseq_kd: error: ") == 1


def test_a_line_break_in_a_hypothesis_does_not_make_two_lines(translator, monkeypatch):
    monkeypatch.setattr(translator.model.target_dictionary, "string", lambda tokens: "a\tb\u2028c\nd")
    spaced = SimpleNamespace(form=str, encode=translator.text.encode, decode=str)
    monkeypatch.setattr(translator, "text", spaced)
    for format, end in (("text", "a b c d\n"), ("tsv", "\ta b c d\n")):
        written = []
        how = {"name": "-", "format": format, "notices": Notices(written.append, SHORT)}
        translate_stream(translator, [b"la"], written.append, **how)
        assert written[-1].endswith(end) and written[-1].count("\n") == 1


needs_ctranslate2 = pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="needs ctranslate2")


@pytest.fixture(scope="module")
def exported(data_bin, teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "student"
    words = ("export", teacher, "--to", "ctranslate2", "--data", data_bin, "--out", out, *WORDS)
    assert main([*map(str, words)]) == 0
    return out


@needs_ctranslate2
def test_an_exported_folder_gives_the_hypotheses_of_export(exported, data_bin, teacher, text, tmp_path, capsys):
    import torch

    from fairseq_kd.evaluation.exported import evaluate_exported
    from fairseq_kd.evaluation.segments import read_segments
    from fairseq_kd.export.runtime import load_translator
    from fairseq_kd.scoring.score import PLAIN

    model = load_translator(exported, torch.device("cpu"), "default", workers=1)
    system = open_system(teacher, data_bin, "test", SHORT, 30)
    expected = evaluate_exported(model, system, read_segments(data_bin, "test"), PLAIN)["hypotheses"]
    capsys.readouterr()
    assert run(exported, text) == 0
    out, error = capsys.readouterr()
    assert out.splitlines() == expected and "note: an older" not in error
    moved = tmp_path / "moved"  # nothing outside of the folder is read
    shutil.copytree(exported, moved)
    found = open_translator(moved, options=SHORT).translate(["", *text.read_text().splitlines()], nbest=2)
    assert [one.text for one in found] == ["", *expected]
    assert all(one.hypotheses[0][1] >= one.hypotheses[1][1] for one in found[1:])


@needs_ctranslate2
def test_an_exported_folder_that_does_not_fit_is_refused(exported, data_bin, text, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    for change, words, message in (
        ({}, ("--data", data_bin), "--data has no effect"),
        ({}, ("--subword-model", "x"), "has its own subword model"),
        ({"subword": None}, (), "has no subword model"),
        ({"max_positions": [6, 6]}, (), "source tokens, but the model and --max-tokens allow 6"),
    ):
        (copy / "manifest.json").write_text(json.dumps({**manifest, **change, "seal": None}))
        assert run(copy, text, *words) == 2
        assert message in capsys.readouterr().err
    older = {name: value for name, value in manifest.items() if name not in ("max_positions", "form", "seal")}
    (copy / "manifest.json").write_text(json.dumps(older))
    assert run(copy, text) == 0
    assert "note: an older version exported" in capsys.readouterr().err
    with open(copy / "config.json", "a") as file:
        file.write(" ")
    assert run(copy, text) == 2
    assert "was changed after it was made" in capsys.readouterr().err


@needs_ctranslate2
def test_the_commands_of_the_page_about_translate(exported, data_bin, teacher, text, tmp_path, monkeypatch, capsys):
    blocks = {block.language: block for block in blocks_run_by("test_the_commands_of_the_page_about_translate")}
    for name, target in (("student/checkpoint_best.pt", teacher), ("data-bin/mine", data_bin)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(target)
    (tmp_path / "student-int8").symlink_to(exported)
    (tmp_path / "news.de").write_text("".join(text.read_text().splitlines(keepends=True)[:3]))
    monkeypatch.chdir(tmp_path)
    for command in blocks["bash"].commands():
        assert main(shlex.split(command)[1:]) == 0
    assert [len(open(name).readlines()) for name in ("news.en", "news.tsv", "exported.en")] == [3, 9, 3]  # noqa: SIM115
    assert open("news.en").read() == open("exported.en").read()  # noqa: SIM115
    capsys.readouterr()
    exec(blocks["python"].text, {})
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("['") and second.count("'") == 6 and third == "[('', 0.0)]"
