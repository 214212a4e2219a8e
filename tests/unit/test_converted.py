"""`fairseq-kd decode --teacher-folder`: models of transformers, converted by CTranslate2's own converter."""

import gzip
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import sentencepiece
from cache_helpers import content
from docs_helpers import blocks_run_by
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrained_helpers import generate, short_lines

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.entry import text_files
from fairseq_kd.corpus.prepare import prepare
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.subword import subword_decoder
from fairseq_kd.export.translator_folder import read_translator_folder
from fairseq_kd.inference.opening import open_data
from fairseq_kd.sequence import converted_backend
from fairseq_kd.sequence.converted_families import fill_in
from fairseq_kd.sequence.converted_options import ConvertedOptions, check_for_converted, control_tokens
from fairseq_kd.sequence.converted_sources import texts_of
from fairseq_kd.sequence.converted_tokeniser import UNKNOWN, open_tokeniser
from fairseq_kd.sequence.decode import decode, of_teacher
from fairseq_kd.sequence.decode_options import DecodeOptions, Hypothesis
from fairseq_kd.sequence.source_text import decode_text

LANGUAGES = ("qaa", "qab")
CODES = {"source_lang": "deu_Latn", "target_lang": "eng_Latn"}


def of_marian(folder, **more) -> ConvertedOptions:
    return ConvertedOptions(str(folder / "ct2"), family="opus-mt", **more)


def of_nllb(folder, **more) -> ConvertedOptions:
    return ConvertedOptions(str(folder / "ct2"), **{"family": "nllb"} | CODES | more)


def options(**more) -> DecodeOptions:
    return DecodeOptions(**{"cpu": True, "fallback": "drop", "max_len_b": 30, "strategy": "greedy"} | more)


def quiet(files, like, teacher, out, how=None, **more):
    return decode_text(files, like, teacher, out, how or options(), say=lambda line: None, **more)


def rows(folder) -> list[list[str]]:
    return [row.split("\t") for row in (folder / "train.hypotheses.qab.tsv").read_text().splitlines()]


@pytest.fixture(scope="module")
def lines(corpus):
    """100 different short sentences that are in no evaluation set."""
    evaluated = [line for name in ("valid", "test") for line in (corpus / f"{name}.qaa").read_text().splitlines()]
    return [line for line in dict.fromkeys(short_lines(corpus, "train.qaa")) if line not in evaluated][:100]


@pytest.fixture(scope="module")
def text(lines, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("kind", ["marian", "nllb"])
def test_hypotheses_are_those_of_the_package_itself(kind, lines, text, data_bin, tmp_path, request):
    folder, teacher_of = request.getfixturevalue(kind), {"marian": of_marian, "nllb": of_nllb}[kind]
    _, as_text = subword_decoder(data_bin, "qab", None)
    for beams, how in ((1, options(max_len_b=16)), (4, options(strategy="beam", beam=4, max_len_b=16))):
        expected, scores = generate(folder, lines, beams, max_new_tokens=16 + (kind == "nllb"))  # with the prefix
        manifest = quiet([text], data_bin, teacher_of(folder), tmp_path / str(beams), how)
        found = rows(tmp_path / str(beams))
        assert manifest["pairs"] == 100 and manifest["teacher_sources"]["unknown_pieces"] == 0
        assert [as_text(row[5]) for row in found] == expected
        assert len(set(expected)) > 50  # not a model that says the same of everything
        if scores is not None:  # CTranslate2 leaves <unk> out of the distribution
            assert np.allclose([float(row[3]) for row in found], scores, atol=2e-3)
    spelt = (tmp_path / "4" / "train.hypotheses.qab.tsv").read_text()
    assert "Latn" not in spelt and "</s>" not in spelt


@pytest.mark.parametrize("kind", ["marian", "nllb"])
def test_a_hypothesis_says_how_many_tokens_of_the_teacher_its_score_is_about(
    kind, text, data_bin, tmp_path, request, monkeypatch
):
    """Without length penalty the score is the log-probability, else this divided by the number to its power."""
    folder, teacher_of = request.getfixturevalue(kind), {"marian": of_marian, "nllb": of_nllb}[kind]
    made = {}
    for penalty in (0.0, 1.0, 2.0):
        found = made[penalty] = []

        class Kept(Hypothesis):
            def __init__(self, *values, found=found):
                super().__init__(*values)
                found.append(self)

        monkeypatch.setattr(converted_backend, "Hypothesis", Kept)
        how = options(strategy="beam", beam=1, lenpen=penalty, max_len_b=16)
        quiet([text], data_bin, teacher_of(folder), tmp_path / str(penalty), how)
    assert (
        len(made[0.0]) == 100
        and len({h.scored for h in made[0.0]}) > 3
        and any(h.scored != len(h.tokens) + 1 for h in made[0.0])
    )
    for whole, *divided in zip(*made.values(), strict=True):
        for penalty, other in zip((1.0, 2.0), divided, strict=True):
            assert other.score * other.scored_tokens**penalty == pytest.approx(whole.score, rel=1e-4, abs=1e-5)


def test_the_targets_of_a_data_bin_are_the_same_as_of_its_text(corpus, data_bin, marian, tmp_path):
    """The sources become text by the data-bin's own subword model, which restores the text."""
    manifest = decode(data_bin, of_marian(marian), tmp_path / "a", options(), say=str)
    assert manifest["sentences"] == 400 and set(manifest["dropped"]) == {"too_long"}
    sources = (corpus / "train.qaa").read_text().splitlines()
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in sources))
    quiet([tmp_path / "text"], data_bin, of_marian(marian), tmp_path / "b")
    table = [row.split("\t")[2] for row in (tmp_path / "b" / "train.lines.tsv").read_text().splitlines()]
    number_of = {row: number for number, row in enumerate(table) if row.isdigit()}
    found = {number_of[row[0]]: row[5] for row in rows(tmp_path / "b")}
    whole = {int(row[0]): row[5] for row in rows(tmp_path / "a")}
    assert len(found) > 200 and found == {number: whole[number] for number in found}


def test_closest_chooses_among_texts_of_the_teacher(data_bin, nllb, tmp_path):
    how = options(strategy="beam", beam=3, nbest=3, select="closest", metric="chrf", subset="valid")
    manifest = decode(data_bin, of_nllb(nllb), tmp_path / "out", how, say=str)
    found = [row.split("\t") for row in (tmp_path / "out" / "valid.hypotheses.qab.tsv").read_text().splitlines()]
    assert manifest["pairs"] == 30 and Counter(row[0] for row in found) == {str(n): 3 for n in range(30)}
    for number in range(30):
        of_sentence = found[3 * number : 3 * number + 3]
        chosen = next(row for row in of_sentence if row[2] == "*")
        assert float(chosen[4]) == max(float(row[4]) for row in of_sentence)
        scores = [float(row[3]) for row in of_sentence]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(("strategy", "count"), [("greedy", 4), ("sample", 2)])
def test_killed_and_shared_it_goes_on_to_the_same_bytes(
    strategy, count, lines, data_bin, marian, tmp_path, monkeypatch
):
    how = options(strategy=strategy, max_len_b=12, **({"nbest": 2, "seed": 7} if strategy == "sample" else {}))
    more = {"how": how, "block_sentences": 10}
    text = tmp_path / "text"
    text.write_text("".join(f"{line}\n" for line in lines[:40]))

    def run_into(name):
        quiet([text], data_bin, of_marian(marian), tmp_path / name, **more)

    def killed_at(number) -> int:
        """Kill the process just before it gives the file number `number` its name."""
        arguments = (number, lambda: run_into(f"killed{number}"))
        process = multiprocessing.get_context("fork").Process(target=until, args=arguments)
        process.start()
        process.join()
        return process.exitcode

    files = counted(monkeypatch, lambda: run_into("whole"))
    expected = content(tmp_path / "whole")
    for number in random.Random(5).sample(range(1, files + 1), 10):
        assert killed_at(number) == -signal.SIGKILL
        run_into(f"killed{number}")
        assert content(tmp_path / f"killed{number}") == expected
    out = tmp_path / "shards"
    done = [quiet([text], data_bin, of_marian(marian), out, shard=(n, count), **more) for n in range(count)]
    assert done[:-1] == [None] * (count - 1) and content(out) == expected
    if strategy == "sample":
        other = quiet([text], data_bin, of_marian(marian), tmp_path / "other", options(**vars_of(how, seed=8)))
        assert other["settings"]["seed"] == 8 and rows(tmp_path / "other") != rows(tmp_path / "whole")


def counted(monkeypatch, run) -> int:
    """Run; how many files got their names."""
    names, replace = [], os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths, **how: (names.append(paths[1]), replace(*paths, **how)))
        run()
    return len(names)


def until(number: int, run) -> None:
    """Run, and die just before the file number `number` gets its name."""
    replace, names = os.replace, []

    def replaced(*paths, **how):
        names.append(paths[1])
        if len(names) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths, **how)

    os.replace = replaced
    run()


def vars_of(how: DecodeOptions, **more) -> dict:
    return {"strategy": how.strategy, **how.given, **more}


@pytest.fixture
def held(lines, data_bin, nllb, tmp_path_factory):
    """Not arguments of the test: hypothesis would print them all."""
    HELD[:] = lines, data_bin, nllb, tmp_path_factory


HELD = []
KINDS = ("short", "empty", "long", "unknown", "again")


@pytest.mark.usefixtures("held")
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=10),
    block_sentences=st.integers(1, 4),
    max_tokens=st.sampled_from([1, 20, 1000]),
    count=st.integers(1, 3),
)
@settings(max_examples=5, deadline=None, derandomize=True)
def test_a_hole_is_impossible(kinds, block_sentences, max_tokens, count):
    """Each line is a pair, or counted as dropped for a reason, and the pairs are in the order of the lines."""
    lines, data_bin, nllb, tmp_path_factory = HELD
    folder = tmp_path_factory.mktemp("hole")
    one_of = {"empty": " ", "long": " ".join(lines[:25]), "unknown": "\u4e16", "again": lines[0]}
    written = [lines[1], *(one_of.get(kind, lines[2 + n]) for n, kind in enumerate(kinds))]
    (folder / "text").write_text("".join(f"{line}\n" for line in written))
    how, teacher = options(max_tokens=max_tokens), of_nllb(nllb, max_unknown_share=1.0)
    more = {"block_sentences": block_sentences, "how": how}
    for number in range(count):
        manifest = quiet([folder / "text"], data_bin, teacher, folder / "out", shard=(number, count), **more)
    table = [row.split("\t")[2] for row in (folder / "out" / "train.lines.tsv").read_text().splitlines()]
    kept = [int(row) for row in (folder / "out" / "train.kept.txt").read_text().split()]
    assert len(table) == len(written) == manifest["cleaning"]["kept"] + sum(manifest["cleaning"]["dropped"].values())
    assert manifest["sentences"] == manifest["pairs"] + sum(manifest["dropped"].values())
    assert kept == sorted(set(kept)) and len(kept) == manifest["pairs"]
    assert manifest["dropped"].get("too_long", 0) == len({"long"} & set(kinds))
    task = open_data(folder / "out", LANGUAGES, "train")
    decoder = subword_decoder(data_bin, "qaa", None)[1]
    of_sentence = {int(row): line for row, line in zip(table, written, strict=True) if row.isdigit()}
    for pair, number in enumerate(kept):
        symbols = [task.source_dictionary.symbols[token] for token in task.dataset("train").src[pair][:-1]]
        assert of_sentence[number] == "\u4e16" or decoder(" ".join(symbols)) == of_sentence[number]


def test_the_size_of_batches_changes_no_target(text, data_bin, nllb, tmp_path):
    made = []
    for tokens in (1, 60, 2000):
        how = options(strategy="beam", beam=4, max_tokens=tokens, max_len_b=16)
        quiet([text], data_bin, of_nllb(nllb), tmp_path / str(tokens), how)
        made.append([(tmp_path / str(tokens) / f"train.qaa-qab.qab.{end}").read_bytes() for end in ("bin", "idx")])
    assert made[0] == made[1] == made[2]


def test_long_sources_are_counted_and_never_cut(lines, data_bin, marian, tmp_path):
    """The model has 64 positions; the end of a sentence is one of the tokens."""
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in (lines[0], " ".join(lines[:30]), lines[1])))
    manifest = quiet([tmp_path / "text"], data_bin, of_marian(marian), tmp_path / "out")
    assert (manifest["pairs"], manifest["dropped"]) == (2, {"too_long": 1})
    assert manifest["teacher_sources"]["pieces"] > 64
    with pytest.raises(KDError, match=r"sentence 1 is longer than the teacher's positions, 1 are in all"):
        quiet([tmp_path / "text"], data_bin, of_marian(marian), tmp_path / "e", options(fallback="error"))
    with pytest.raises(KDError, match="--max-source-tokens 65: the model has positions for 64 source tokens"):
        quiet([tmp_path / "text"], data_bin, of_marian(marian, max_source_tokens=65), tmp_path / "f")


def test_a_source_of_the_greatest_length_is_translated_and_one_more_token_is_not(data_bin, marian, lines, tmp_path):
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(marian / "ct2" / "source.spm"))
    sizes = [len(processor.encode(line)) + 1 for line in lines]
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in lines))
    limit = sorted(sizes)[50]
    manifest = quiet([tmp_path / "text"], data_bin, of_marian(marian, max_source_tokens=limit), tmp_path / "out")
    assert manifest["dropped"] == {"too_long": sum(size > limit for size in sizes)}
    kept = [int(row) for row in (tmp_path / "out" / "train.kept.txt").read_text().split()]
    assert kept == [number for number, size in enumerate(sizes) if size <= limit]


@pytest.mark.parametrize(
    ("more", "how", "message"),
    [
        (
            {"target_prefix": "eng_Latm", "target_lang": None},
            {},
            "--target-prefix eng_Latm: the vocabulary of .*ct2 has no such token",
        ),
        (
            {"source_prefix": "xxx", "source_lang": None},
            {},
            "--source-prefix xxx: the vocabulary of .*ct2 has no such token",
        ),
        ({"source_lang": None}, {}, "--family nllb needs --teacher-source-lang, for example deu_Latn"),
        ({"family": "plain"}, {}, "--teacher-source-lang deu_Latn has no effect with --family plain"),
        ({"family": "plain", "source_lang": None, "target_lang": None}, {}, "ct2 needs --teacher-tokeniser: give sent"),
        ({"family": "other"}, {}, "--family other: must be one of plain, opus-mt, nllb, m2m100, mbart50"),
        ({"tokeniser": "spm:x"}, {}, "--teacher-tokeniser spm:x: must be sentencepiece:FILE"),
        ({"tokeniser": "words:x"}, {}, "--teacher-tokeniser words:x: must be"),
        ({"tokeniser": "hf:/no/x.json"}, {}, "--teacher-tokeniser: /no/x.json is not there"),
        ({"tokeniser": f"hf:{__file__}"}, {}, "test_converted.py is no tokenizer.json"),
        (
            {"tokeniser": "words"},
            {},
            r"words does not fit the model: \d+ of \d+ pieces of 100 sentences are not",
        ),
        ({"max_source_tokens": 0}, {}, "--max-source-tokens 0: must be at least 1"),
        ({"max_unknown_share": 2.0}, {}, "--max-unknown-share 2.0: must be between 0 and 1"),
        ({}, {"strategy": "teacher-forcing", "max_len_b": None}, "--strategy teacher-forcing .*gold targets"),
        ({}, {"backend": "fairseq"}, "--backend fairseq cannot run --teacher-folder"),
    ],
)
def test_bad_options_are_one_clear_error(more, how, message, text, data_bin, nllb, tmp_path):
    with pytest.raises(KDError, match=message):
        quiet([text], data_bin, of_nllb(nllb, **more), tmp_path / "out", options(**how))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_tokeniser_of_another_model_does_not_fit(text, data_bin, marian, nllb, tmp_path):
    """The pieces of the source, or the pieces from which target text is made."""
    spm = {side: str(marian / "ct2" / f"{side}.spm") for side in ("source", "target")}
    for teacher, tokeniser, message in (
        (of_nllb(nllb, tokeniser=f"sentencepiece:{spm['source']}"), None, "pieces of its target side are not in the"),
        (of_marian(marian), f"hf:{nllb / 'ct2' / 'tokenizer.json'}", "give the tokeniser of this model, or a greater"),
    ):
        chosen = teacher if tokeniser is None else of_marian(marian, tokeniser=tokeniser)
        with pytest.raises(KDError, match=message):
            quiet([text], data_bin, chosen, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_folder_that_is_no_translator_is_refused(text, data_bin, marian, tmp_path):
    cut, other = tmp_path / "cut", tmp_path / "other"
    for name in (cut, other, tmp_path / "lacks"):
        shutil.copytree(marian / "ct2", name / "ct2")
    whole = (marian / "ct2" / "model.bin").read_bytes()
    (cut / "ct2" / "model.bin").write_bytes(whole[:40])
    (other / "ct2" / "model.bin").write_bytes(whole.replace(b"TransformerSpec", b"WhisperSpec\0\0\0\0", 1))
    (tmp_path / "lacks" / "ct2" / "shared_vocabulary.json").unlink()
    for folder, message in (
        (tmp_path / "no", "ct2 is not a folder"),
        (data_bin.parent, "is not a folder"),
        (cut, "model.bin was damaged"),
        (other, "ct2 is no translator: its model is a WhisperSpec"),
        (tmp_path / "lacks", "it has no source_vocabulary.json"),
    ):
        with pytest.raises(KDError, match=message):
            quiet([text], data_bin, of_marian(folder), tmp_path / "out")
    with pytest.raises(KDError, match="is no translator of CTranslate2, it has no model.bin"):
        quiet([text], data_bin, ConvertedOptions(str(data_bin), tokeniser="words"), tmp_path / "out")


def test_a_family_fills_in_what_was_not_given(marian):
    """By hand, from the model cards of OPUS-MT, NLLB, M2M-100 and mBART-50."""
    folder, none = read_translator_folder(marian / "ct2"), {"source": None, "target": None}
    assert folder.positions == (64, 64) and folder.config["add_source_eos"] is False
    spm = f"sentencepiece:{marian / 'ct2' / 'source.spm'},{marian / 'ct2' / 'target.spm'}"
    for name, languages, expected in (
        ("opus-mt", none, ("", "</s>", "", spm)),
        ("opus-mt", none | {"target": "fra"}, (">>fra<<", "</s>", "", spm)),
        ("nllb", {"source": "deu_Latn", "target": "eng_Latn"}, ("deu_Latn", "</s>", "eng_Latn", None)),
        ("m2m100", {"source": "de", "target": "en"}, ("__de__", "</s>", "__en__", None)),
        ("mbart50", {"source": "de_DE", "target": "en_XX"}, ("de_DE", "</s>", "en_XX", None)),
        ("plain", none, ("", "", "", None)),
    ):
        keys = ("source_prefix", "source_suffix", "target_prefix", "tokeniser")
        assert fill_in(name, folder, languages) == dict(zip(keys, expected, strict=True))
    folder.config["add_source_eos"] = True  # as Marian's own converter writes it
    assert fill_in("opus-mt", folder, none)["source_suffix"] == ""
    with pytest.raises(KDError, match="--source-suffix </s>: the model adds this token to every source by itself"):
        ConvertedOptions(str(marian), family="opus-mt", source_suffix="</s>").filled(folder)


def test_a_language_is_needed_for_the_tokens_that_the_family_fills_in(marian):
    folder, german = read_translator_folder(marian / "ct2"), {"source": "de", "target": None}
    assert fill_in("m2m100", folder, german, {"target_prefix"})["source_prefix"] == "__de__"
    assert fill_in("m2m100", folder, {"source": None, "target": None}, {"source_prefix", "target_prefix"})
    with pytest.raises(
        KDError, match="--teacher-source-lang de has no effect with --family m2m100 and the tokens that"
    ):
        fill_in("m2m100", folder, german, {"source_prefix", "target_prefix"})


def test_an_exported_student_is_a_teacher_with_the_subword_model_of_its_data(lines, text, data_bin, teacher, tmp_path):
    """Its dictionary has fewer pieces than the model of SentencePiece; the answers are those of the checkpoint."""
    words = ["--to", "ctranslate2", "--out", str(tmp_path / "ct2"), "--data", str(data_bin), "--max-len-b", "12"]
    assert main(["export", str(teacher), *words, "--cpu"]) == 0
    tokeniser = f"sentencepiece:{data_bin / 'subword' / 'joint.spm'}"
    converted = ConvertedOptions(str(tmp_path / "ct2"), tokeniser=tokeniser)
    manifest = quiet([text], data_bin, converted, tmp_path / "out", options(max_len_b=12))
    decode_text([text], data_bin, str(teacher), tmp_path / "own", options(max_len_b=12), say=str)
    _, as_text = subword_decoder(data_bin, "qab", None)
    texts = [[as_text(row[5]) for row in rows(tmp_path / name)] for name in ("out", "own")]
    assert texts[0] == texts[1]
    assert manifest["targets_at_limit"] > 0


def test_what_the_tokeniser_does_not_know_is_counted_and_never_left_out(nllb):
    tokeniser = open_tokeniser(f"hf:{nllb / 'ct2' / 'tokenizer.json'}")
    (pieces,) = tokeniser.encode(["kado"])
    whole = tokeniser.decode(pieces)
    assert tokeniser.decode([*pieces, "▁nowhere", "x-y-z", *pieces]).split() == [
        *whole.split(),
        UNKNOWN,
        *whole.split(),
    ]


def test_text_that_spells_a_special_token_is_no_special_token(nllb, data_bin, tmp_path):
    tokeniser = open_tokeniser(f"hf:{nllb / 'ct2' / 'tokenizer.json'}")
    assert "</s>" not in tokeniser.encode(["a </s> b"])[0]
    source = tmp_path / "source"
    source.write_text("deu_Latn a\n</s> b\n")
    words = of_nllb(nllb, tokeniser="words", max_unknown_share=1.0)
    quiet([source], data_bin, words, tmp_path / "out", options(max_len_b=3))
    found = json.loads((tmp_path / "out" / "manifest.json").read_text())["teacher_sources"]
    assert found["pieces"] == 4 and {"deu_Latn", "</s>"} <= set(found["unknown_examples"])


def test_an_unknown_token_is_unknown_to_every_subword_model_and_in_text_of_a_data_bin(data_bin, tmp_path):
    """Also where the model of SentencePiece has its default normalisation, NFKC, as in data-bins made elsewhere."""
    lines = (data_bin / "raw" / "test.qaa").read_text().splitlines()
    (tmp_path / "text").write_text("\n".join(f"{line} ??" for line in lines) + "\n")
    words = {"input": str(tmp_path / "text"), "model_prefix": str(tmp_path / "m"), "vocab_size": 60}
    sentencepiece.SentencePieceTrainer.train(**words, normalization_rule_name="nmt_nfkc", minloglevel=2)
    processor = sentencepiece.SentencePieceProcessor(str(tmp_path / "m.model"))
    assert processor.unk_id() in processor.encode(f"kado {UNKNOWN} kado")
    assert processor.unk_id() not in processor.encode("kado ?? kado")
    known = open_data(data_bin, LANGUAGES, "test")
    rows = [known.dataset("test").src[0].clone(), known.dataset("test").src[1]]
    rows[0][0] = known.source_dictionary.unk()
    task = SimpleNamespace(
        cfg=known.cfg, source_dictionary=known.source_dictionary, dataset=lambda subset: SimpleNamespace(src=rows)
    )
    first, second = texts_of(data_bin, task, "test")
    assert UNKNOWN in first and "<unk>" not in first and UNKNOWN not in second


def test_a_prefix_of_words_is_removed_at_the_beginning_only(data_bin, marian):
    options_of = ConvertedOptions(str(marian / "ct2"), family="opus-mt")
    folder = read_translator_folder(marian / "ct2")
    word = next(token for token in folder.target if token.startswith("▁") and len(token) > 2)
    teacher = SimpleNamespace(
        filled=SimpleNamespace(target_prefix=(word,)),
        tokeniser=SimpleNamespace(decode=" ".join),
        control_tokens=control_tokens(options_of, folder, folder.target),
        target_text=SimpleNamespace(encode=str),
    )
    backend = SimpleNamespace(teacher=teacher)
    assert converted_backend.ConvertedBackend._ids(backend, [word, "a", word, "</s>"]) == f"a {word}"
    assert converted_backend.ConvertedBackend._ids(backend, ["a", word]) == f"a {word}"


def test_a_second_model_can_be_trusted_and_have_its_dictionaries_elsewhere():
    how = options(strategy="beam", nbest=2, select="model", select_model="b.pt:c.pt")
    check_for_converted(how, teacher_data="folder", trust="c.pt")
    with pytest.raises(KDError, match="--trust-checkpoint other.pt has no effect with --teacher-folder"):
        check_for_converted(how, trust="other.pt")
    with pytest.raises(KDError, match="--lang-pair a-b has no effect with --teacher-folder"):
        check_for_converted(how, lang_pair="a-b")
    for trust, teacher, expected in (("c.pt", "a.pt", None), ("a.pt", "a.pt", "a.pt"), ("c.pt", "a.pt:c.pt", "c.pt"),
                                     ("x.pt", "a.pt", "x.pt")):  # fmt: skip
        assert of_teacher(trust, teacher, how) == expected


def test_on_the_command_line(text, data_bin, nllb, tmp_path, capsys):
    words = ["decode", "--source-text", str(text), "--like", str(data_bin), "--out", str(tmp_path / "out"), "--cpu"]
    words += ["--strategy", "greedy", "--max-len-b", "30"]
    folder = ["--teacher-folder", str(nllb / "ct2")]
    for more, message in (
        ([], "give either --teacher FILE or --teacher-folder DIR as the teacher: neither is given"),
        ([*folder, "--teacher", "x.pt"], "as the teacher: both are given"),
        (["--teacher", "x.pt", "--family", "nllb"], "--family has no effect with --teacher"),
        ([*folder, "--teacher-data", "x"], "--teacher-data x has no effect with --teacher-folder"),
        ([*folder, "--strategy", "sample", "--workers", "2"], "--workers 2 has no effect with --strategy sample"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    more = ["--family", "nllb", "--teacher-source-lang", "deu_Latn", "--teacher-target-lang", "eng_Latn"]
    assert main([*words, *folder, *more]) == 0
    said = capsys.readouterr().out
    assert "--source-prefix 'deu_Latn' --source-suffix '</s>' --target-prefix 'eng_Latn'" in said
    assert "100 pairs of 100 sentences" in said
    teacher = json.loads((tmp_path / "out" / "manifest.json").read_text())["teacher"]
    assert (teacher["source_prefix"], teacher["target_prefix"]) == ("deu_Latn", "eng_Latn")
    assert len(teacher["sha256"]) == 64 and len(teacher["tokeniser_sha256"]) == 1
    assert main([*words, *folder, *more]) == 0  # kept as it is
    changed = ["--family", "nllb", "--teacher-source-lang", "fra_Latn", "--teacher-target-lang", "eng_Latn"]
    assert main([*words, *folder, *changed]) == 2
    assert "was made with teacher.source_prefix deu_Latn, this command has fra_Latn" in capsys.readouterr().err


def test_the_commands_about_pretrained_teachers(lines, data_bin, marian, nllb, tmp_path, monkeypatch, capsys):
    (block,) = blocks_run_by("test_the_commands_about_pretrained_teachers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data-bin").mkdir()
    for name, target in (("data-bin/mine", data_bin), ("opus-mt-de-en", marian / "ct2"), ("nllb-600m", nllb / "ct2")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "news.txt.gz").write_bytes(gzip.compress("\n".join(lines[:9]).encode()))
    for command in block.commands():
        name, *words = command.split()
        assert name == "fairseq-kd" and main([*words, "--max-len-b", "20", "--cpu"]) == 0
    said = capsys.readouterr().out
    assert "data-bin/distilled is complete: 400 pairs" in said and "data-bin/news is complete: 9 pairs" in said


def test_unknown_target_tokens_are_counted_and_printed(lines, corpus, marian, tmp_path, capsys):
    """Words of the answers that the training set does not have, in a data-bin without subwords."""
    files = text_files(corpus, *LANGUAGES)
    prepare("text", files, *LANGUAGES, tmp_path / "words", PrepareOptions(subword="none"), say=str)
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in lines[:20]))
    words = ["--source-text", str(tmp_path / "text"), "--like", str(tmp_path / "words"), "--max-len-b", "12", "--cpu"]
    words += ["--teacher-folder", str(marian / "ct2"), "--family", "opus-mt", "--out", str(tmp_path / "out")]
    assert main(["decode", *words]) == 0
    found = [token for row in rows(tmp_path / "out") for token in row[5].split()]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    unknown = found.count("<unk>")
    assert (manifest["target_tokens"], manifest["unknown_target_tokens"]) == (len(found), unknown)
    assert 0 < unknown < len(found)
    share = f"{unknown} target tokens are unknown to the dictionary ({100 * unknown / len(found):.2f}%)"
    assert share in capsys.readouterr().out


@pytest.mark.parametrize("package", ["ctranslate2", "tokenizers"])
def test_a_missing_package_is_named(package, text, data_bin, nllb, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # so that its import fails
    with pytest.raises(KDError, match=rf"^{package} is not installed \(pip install"):
        quiet([text], data_bin, of_nllb(nllb), tmp_path / "out")
