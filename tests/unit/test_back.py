"""`fairseq-kd decode --back`: text of the target language, a reverse teacher, and tagged sources."""

import gzip
import shlex

import pytest
import torch
from cache_helpers import content
from docs_helpers import blocks_run_by
from pretrained_helpers import short_lines

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.entry import text_files
from fairseq_kd.corpus.prepare import prepare
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.reserved import reserved_names
from fairseq_kd.corpus.sentencepiece_model import join_pieces
from fairseq_kd.inference.opening import open_data
from fairseq_kd.noise.data_bin import noise_data_bin
from fairseq_kd.noise.operations import NoiseOptions
from fairseq_kd.sequence.back import Back
from fairseq_kd.sequence.converted_options import ConvertedOptions
from fairseq_kd.sequence.decode import decode
from fairseq_kd.sequence.decode_options import DecodeOptions
from fairseq_kd.sequence.mix import mix
from fairseq_kd.sequence.source_text import decode_text

LANGUAGES = ("qaa", "qab")


@pytest.fixture(scope="module")
def reserved(corpus, tmp_path_factory):
    """A data-bin with 8 reserved tokens."""
    out = tmp_path_factory.mktemp("reserved") / "data-bin"
    options = PrepareOptions(vocab_size=120, reserve=8)
    prepare("text", text_files(corpus, *LANGUAGES), *LANGUAGES, out, options, say=lambda line: None)
    return out


@pytest.fixture(scope="module")
def reverse(teacher, tmp_path_factory):
    """The small teacher, which now says that it translates qab to qaa."""
    state = torch.load(teacher)
    state["cfg"]["task"] |= {"source_lang": LANGUAGES[1], "target_lang": LANGUAGES[0]}
    torch.save(state, path := tmp_path_factory.mktemp("reverse") / "reverse.pt")
    return path


@pytest.fixture(scope="module")
def reverse_with_reserved(reverse, reserved, tmp_path_factory):
    """`reverse` with the dictionaries of `reserved`: a row of zeros for each token that is new."""
    state = torch.load(reverse)
    state["cfg"]["task"]["data"] = str(reserved)
    for name in ("encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection"):
        rows = state["model"][f"{name}.weight"]
        state["model"][f"{name}.weight"] = torch.cat([rows, rows.new_zeros(8, rows.shape[1])])
    torch.save(state, path := tmp_path_factory.mktemp("reverse") / "reserved.pt")
    return path


def converted(marian) -> ConvertedOptions:
    """The small model translates qaa to qab; here it is taken for a model of the other direction."""
    return ConvertedOptions(str(marian / "ct2"), family="opus-mt", max_unknown_share=1.0)


@pytest.fixture
def text(corpus, tmp_path):
    """The targets of the training set, shortened, one of them twice, and one line of the test set."""
    lines = short_lines(corpus, "train.qab")[:30]
    tested = (corpus / "test.qab").read_text().splitlines()[0]
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in [*lines, lines[0], tested]))
    return tmp_path / "text"


def options(**more) -> DecodeOptions:
    return DecodeOptions(**{"cpu": True, "fallback": "drop", "max_len_b": 12, "strategy": "greedy"} | more)


def quiet(files, like, teacher, out, how=None, **more):
    return decode_text(files, like, teacher, out, how or options(), say=lambda line: None, **more)


def sides(data_bin) -> tuple[list[str], list[str]]:
    """Sources and targets of the training set as subwords."""
    task = open_data(data_bin, LANGUAGES, "train")
    dataset = task.dataset("train")
    both = (dataset.src, task.source_dictionary.symbols), (dataset.tgt, task.target_dictionary.symbols)
    numbers = range(len(dataset))
    return tuple([" ".join(names[token] for token in side[n][:-1]) for n in numbers] for side, names in both)


@pytest.mark.parametrize(("kind", "tag"), [("fairseq", None), ("fairseq", "<BT>"), ("converted", "<BT>")])
def test_the_text_is_the_target_and_the_answers_are_the_sources(
    kind, tag, text, data_bin, reserved, reverse, reverse_with_reserved, marian, tmp_path
):
    like, of_fairseq = (data_bin, reverse) if tag is None else (reserved, reverse_with_reserved)
    teacher = str(of_fairseq) if kind == "fairseq" else converted(marian)
    made = quiet([text], like, teacher, tmp_path / "out", back=Back(tag))
    assert (made["source_lang"], made["target_lang"], made["back"]) == (*LANGUAGES, {"tag": tag})
    assert made["cleaning"]["dropped"]["evaluation"] == 1 and made["cleaning"]["dropped"]["duplicate"] >= 1
    rows = [row.split("\t") for row in (tmp_path / "out" / "train.hypotheses.qaa.tsv").read_text().splitlines()]
    kept = [int(row) for row in (tmp_path / "out" / "train.kept.txt").read_text().split()]
    answer = {int(row[0]): row[5] for row in rows}
    sources, targets = sides(tmp_path / "out")
    mark = "" if tag is None else f"{tag} "
    assert sources == [mark + answer[number] for number in kept] and len(sources) == made["pairs"] > 5
    lines = list(dict.fromkeys(text.read_text().splitlines()[:-1]))
    assert [join_pieces(target) for target in targets] == [lines[number] for number in kept]
    before = content(tmp_path / "out")
    with pytest.raises(KDError, match=r"was made with back-translation .*, this command has None: one decoded"):
        quiet([text], like, teacher, tmp_path / "out")
    assert quiet([text], like, teacher, tmp_path / "out", back=Back(tag)) == made
    assert content(tmp_path / "out") == before
    mixed = mix([like, tmp_path / "out"], [1, 3], tmp_path / "mixed")
    assert mixed["pairs_of_each"] == [400, 3 * made["pairs"]]
    assert mixed.get("reserved") == (None if tag is None else reserved_names(8))


def test_the_mark_is_no_text_for_the_next_teacher(text, reserved, marian, tmp_path):
    for name, tag in (("tagged", "<BT>"), ("plain", None)):
        quiet([text], reserved, converted(marian), tmp_path / name, back=Back(tag))
        decode(tmp_path / name, converted(marian), tmp_path / f"{name}-again", options(), say=str)
    again = [(tmp_path / f"{name}-again" / "train.hypotheses.qab.tsv").read_text() for name in ("tagged", "plain")]
    assert again[0] == again[1] and len(again[0].splitlines()) > 20


def test_reserved_tokens_are_new_entries_behind_all_others(corpus, data_bin, reserved, tmp_path):
    before, after = ((folder / "dict.qaa.txt").read_text().splitlines() for folder in (data_bin, reserved))
    names = ["<BT>", "<FT>", "<R3>", "<R4>", "<R5>", "<R6>", "<R7>", "<R8>"]
    assert after == [*before, *(f"{name} 0" for name in names)] and reserved_names(8) == names
    for name in ("train", "valid", "test"):
        for lang in LANGUAGES:
            file = f"{name}.qaa-qab.{lang}.bin"
            assert (reserved / file).read_bytes() == (data_bin / file).read_bytes()
    files = text_files(corpus, *LANGUAGES)
    like = prepare("text", files, *LANGUAGES, tmp_path / "like", PrepareOptions(like=str(reserved)), say=str)
    assert like["reserved"] == names
    with pytest.raises(KDError, match="--reserve 2 has no effect with --like"):
        PrepareOptions(like=str(reserved), reserve=2)
    with pytest.raises(KDError, match="--reserve -1: must be at least 0"):
        PrepareOptions(reserve=-1)


def test_a_word_of_the_text_is_not_taken_for_a_reserved_token(corpus, tmp_path):
    for lang in LANGUAGES:
        for name in ("train", "valid", "test"):
            text = (corpus / f"{name}.{lang}").read_text()
            (tmp_path / f"{name}.{lang}").write_text(text + ("<BT> na\n" if name == "train" else ""))
    files = text_files(tmp_path, *LANGUAGES)
    with pytest.raises(KDError, match="--reserve 1: the training text holds <BT> as a token"):
        options = PrepareOptions(subword="none", reserve=1)
        prepare("text", files, *LANGUAGES, tmp_path / "words", options, say=str)
    assert not (tmp_path / "words").exists()
    pieces = prepare("text", files, *LANGUAGES, tmp_path / "pieces", PrepareOptions(vocab_size=120, reserve=1), say=str)
    task = open_data(tmp_path / "pieces", LANGUAGES, "train")
    last = task.dataset("train").src[len(task.dataset("train")) - 1]
    assert pieces["reserved"] == ["<BT>"] and task.source_dictionary.index("<BT>") not in last.tolist()


@pytest.mark.parametrize("level", ["word", "subword", "char"])
def test_noise_leaves_the_tag(level, text, reserved, marian, tmp_path):
    quiet([text], reserved, converted(marian), tmp_path / "out", back=Back("<BT>"))
    noise = NoiseOptions(delete=0.5, swap=0.5, swap_window=3, level=level)
    noise_data_bin(tmp_path / "out", tmp_path / "noisy", noise, sides=["source"], seed=1)
    clean, noisy = sides(tmp_path / "out")[0], sides(tmp_path / "noisy")[0]
    assert noisy != clean
    assert all(line.split(" ")[0] == "<BT>" and line.count("<BT>") == 1 for line in noisy)


def test_bad_input_is_one_clear_error(text, data_bin, reserved, teacher, tmp_path, capsys):
    for like, checkpoint, tag, message in (
        (data_bin, teacher, None, "needs a teacher of qab-qaa; this teacher translates qaa-qab"),
        (data_bin, teacher, "<BT>", r"--tag <BT> is not a reserved token of .*\(it has reserved none\)"),
        (reserved, teacher, "<XX>", r"--tag <XX> is not .*\(it has reserved <BT> <FT> <R3>"),
    ):
        with pytest.raises(KDError, match=message):
            quiet([text], like, str(checkpoint), tmp_path / "out", back=Back(tag))
    words = ["decode", "--teacher", str(teacher), "--out", str(tmp_path / "out"), "--cpu"]
    for more, message in (
        ([str(reserved), "--back"], "--back needs --source-text"),
        (["--source-text", str(text), "--like", str(reserved), "--tag", "<BT>"], "--tag <BT> has no effect without"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err


def test_the_commands_about_back_translation(text, reserved, marian, tmp_path, monkeypatch, capsys):
    (block,) = blocks_run_by("test_the_commands_about_back_translation")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data-bin").mkdir()
    (tmp_path / "data-bin" / "mine").symlink_to(reserved)
    (tmp_path / "opus-mt-en-de").symlink_to(marian / "ct2")
    (tmp_path / "news.en.gz").write_bytes(gzip.compress(text.read_bytes()))
    for command in block.commands():
        name, *words = shlex.split(command)
        assert name == "fairseq-kd" and main(words) == 0
    sources, _ = sides(tmp_path / "data-bin" / "more")
    assert [source.startswith("<BT> ") for source in sources] == [False] * 800 + [True] * (len(sources) - 800)
    assert len(sources) > 820 and "next: fairseq-kd mix data-bin/mine data-bin/back" in capsys.readouterr().out
