"""`fairseq-kd decode`: nothing is lost or misplaced, whatever happens; the decoders agree with references."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_helpers import content
from conftest import run_fairseq
from fairseq.data import Dictionary
from helpers import write_variant

from fairseq_kd.artifacts.derived import SideWriter
from fairseq_kd.core.errors import KDError
from fairseq_kd.evaluation.system import TranslateOptions, search_backend, translate
from fairseq_kd.inference.opening import open_data
from fairseq_kd.sequence import decode as decode_module
from fairseq_kd.sequence.decode import decode
from fairseq_kd.sequence.decode_options import DecodeOptions, Hypothesis
from fairseq_kd.teacher.ensemble import open_teachers

LANGUAGES = ("qaa", "qab")


class NumberingBackend:
    """Answers with the sentence's own number, written in three digits of base 50."""

    name, max_tokens = "numbering", 1

    def translate(self, sentences, advance):
        shuffled = np.random.default_rng(0).permutation(sentences)
        advance(len(sentences))
        return {int(n): [Hypothesis(10 + np.array([n // 2500, n // 50 % 50, n % 50]), -0.5)] for n in shuffled}


@pytest.fixture
def numbering(monkeypatch):
    monkeypatch.setattr(decode_module, "choose_backend", lambda *arguments: NumberingBackend())


@pytest.fixture(scope="module")
def awkward(data_bin, tmp_path_factory):
    """A data-bin of 157 sentences: duplicates, empty ones, and some longer than the teacher's 1,024 positions."""
    folder = tmp_path_factory.mktemp("awkward") / "data"
    folder.mkdir()
    rng, lengths = np.random.default_rng(1), [0, 1, 3, 3, 3, 40, 1500] * 22 + [2000, 0, 1]
    for lang in LANGUAGES:
        (folder / f"dict.{lang}.txt").write_bytes((data_bin / f"dict.{lang}.txt").read_bytes())
        dictionary = Dictionary.load(str(folder / f"dict.{lang}.txt"))
        writer = SideWriter(folder, f"train.qaa-qab.{lang}", dictionary)
        for length in lengths:
            writer.add(np.append(np.full(length, rng.integers(4, 60)), dictionary.eos()))
        writer.close()
    return folder


def targets(folder, subset="train") -> list[list[int]]:
    """Target token ids of a data-bin, without EOS."""
    return [row[:-1].tolist() for row in open_data(folder, LANGUAGES, subset).dataset(subset).tgt]


def quiet(data_bin, teacher, out, options=None, **more):
    return decode(data_bin, str(teacher), out, options or DecodeOptions(cpu=True), say=lambda line: None, **more)


@pytest.mark.parametrize("block_sentences", [1, 7, 64, 157, 1000])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_sentence_has_its_own_answer_in_its_own_place(
    numbering, awkward, teacher, tmp_path, block_sentences, shards
):
    for shard in range(shards):
        manifest = quiet(awkward, teacher, tmp_path / "out", shard=(shard, shards), block_sentences=block_sentences)
    found, gold = targets(tmp_path / "out"), targets(awkward)
    sources = [row.numel() for row in open_data(awkward, LANGUAGES, "train").dataset("train").src]
    assert len(found) == 157
    for number, tokens in enumerate(found):
        expected = gold[number] if sources[number] > 1024 else [10, 10 + number // 50, 10 + number % 50]
        assert tokens == expected, number
    assert manifest["fallbacks"] == {"too_long": 23}
    assert (tmp_path / "out" / "train.qaa-qab.qaa.bin").read_bytes() == (awkward / "train.qaa-qab.qaa.bin").read_bytes()


def test_train_and_train1_are_decoded_as_fairseq_train_reads_them(numbering, awkward, teacher, tmp_path):
    shutil.copytree(awkward, tmp_path / "data")
    for path in awkward.glob("train.*"):
        shutil.copy(path, tmp_path / "data" / path.name.replace("train", "train1"))
    quiet(tmp_path / "data", teacher, tmp_path / "out")
    assert not list((tmp_path / "out").glob("train1*"))
    found = open_data(tmp_path / "out", LANGUAGES, "train").dataset("train")
    given = open_data(tmp_path / "data", LANGUAGES, "train").dataset("train")
    assert len(found) == len(given) == 314
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found.src, given.src, strict=True))
    assert found.tgt[313].tolist() == [10, 10 + 313 // 50, 10 + 313 % 50, 2]


def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(numbering, awkward, teacher, tmp_path):
    def in_a_process(out, seconds=None):
        """Decode in a fork, which is killed after the given seconds; return its exit code and how long it took."""
        process = multiprocessing.get_context("fork").Process(
            target=quiet, args=(awkward, teacher, out), kwargs={"block_sentences": 5}
        )
        started = time.monotonic()
        process.start()
        process.join(seconds)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        return process.exitcode, time.monotonic() - started

    code, duration = in_a_process(tmp_path / "whole")
    assert code == 0
    rng, codes = random.Random(1), []
    for attempt in range(8):
        out = tmp_path / str(attempt)
        codes += [in_a_process(out, rng.uniform(0, 0.6 * duration))[0] for _ in range(2)]
        quiet(awkward, teacher, out, block_sentences=5)
        assert content(out) == content(tmp_path / "whole")
    assert codes.count(-signal.SIGKILL) >= 4


def test_it_can_be_killed_before_every_rename_of_its_last_step(numbering, awkward, teacher, tmp_path, monkeypatch):
    quiet(awkward, teacher, tmp_path / "whole", block_sentences=100)

    def stop_at(number, patch):
        done, link = [], os.link

        def stopping(function):
            def stopped(*arguments):
                if function is not link or Path(arguments[1]).name == "manifest.json":  # others are of the original
                    done.append(arguments)
                if len(done) == number:
                    raise KeyboardInterrupt
                function(*arguments)

            return stopped

        patch.setattr(os, "replace", stopping(os.replace))
        patch.setattr(os, "link", stopping(link))

    for number in range(1, 8):  # record (a link), two parts, text, idx, bin, manifest
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_at(number, patch)
            quiet(awkward, teacher, tmp_path / str(number), block_sentences=100)
        quiet(awkward, teacher, tmp_path / str(number), block_sentences=100)
        assert content(tmp_path / str(number)) == content(tmp_path / "whole"), number


def test_a_sentence_without_an_answer_is_an_error_on_request(numbering, awkward, teacher, tmp_path):
    with pytest.raises(KDError, match="sentence 6 is longer than the teacher's positions, 23 are"):
        quiet(awkward, teacher, tmp_path / "out", DecodeOptions(cpu=True, fallback="error"))


def test_an_empty_answer_is_replaced_by_gold_and_counted(awkward, teacher, tmp_path, monkeypatch):
    class Silent(NumberingBackend):
        def translate(self, sentences, advance):
            return {int(n): [Hypothesis(np.array([], dtype=int), -1.0)] for n in sentences}

    monkeypatch.setattr(decode_module, "choose_backend", lambda *arguments: Silent())
    manifest = quiet(awkward, teacher, tmp_path / "out")
    assert targets(tmp_path / "out") == targets(awkward)
    assert manifest["fallbacks"] == {"empty": 111, "empty_source": 23, "too_long": 23}


def test_filters_leave_out_both_sides_and_say_which(numbering, awkward, teacher, tmp_path):
    options = DecodeOptions(cpu=True, max_length_ratio=3.0, drop_empty=True)
    manifest = quiet(awkward, teacher, tmp_path / "out", options)
    dataset = open_data(tmp_path / "out", LANGUAGES, "train").dataset("train")
    # kept: sources of 1 and 3 tokens (hypotheses have 3) and those too long, whose gold has their length
    assert manifest["dropped"] == {"empty": 23, "length_ratio": 22}
    assert len(dataset) == manifest["pairs"] == 157 - 45
    kept = [int(line) for line in (tmp_path / "out" / "train.kept.txt").read_text().split()]
    assert len(kept) == 112 and 0 not in kept and 5 not in kept
    sources = open_data(awkward, LANGUAGES, "train").dataset("train").src
    assert all(torch.equal(dataset.src[i], sources[number]) for i, number in enumerate(kept))


def hypotheses(folder) -> list[list[str]]:
    """Lines of the text file: sentence, rank, mark, score, closeness, tokens."""
    path = next(Path(folder).glob("*.hypotheses.*.tsv"))
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def generated(data_bin, teacher):
    """Sentence number -> (score in nats, tokens) of the five best by stock fairseq-generate."""
    result = run_fairseq(
        "generate", data_bin, "--path", teacher, "--gen-subset", "test", "--beam", 5, "--nbest", 5, "--cpu",
        "--max-len-b", 30, "--required-batch-size-multiple", 1,
    )  # fmt: skip
    found = {}
    for line in result.stdout.splitlines():
        if line.startswith("H-"):
            name, score, tokens = line.split("\t")
            found.setdefault(int(name[2:]), []).append((float(score) * np.log(2), tokens))
    return found


def five_best(data_bin, teacher, out, backend) -> dict[int, list[tuple[float, str]]]:
    """Sentence number -> (score, tokens), as `generated`."""
    options = DecodeOptions(cpu=True, subset="test", nbest=5, max_len_b=30, backend=backend)
    assert quiet(data_bin, teacher, out, options)["backend"] == backend
    found = {}
    for number, _, _, score, _, tokens in hypotheses(out):
        found.setdefault(int(number), []).append((float(score), tokens))
    return found


def test_backend_fairseq_gives_what_fairseq_generate_gives(data_bin, teacher, generated, tmp_path):
    found = five_best(data_bin, teacher, tmp_path / "out", "fairseq")
    assert len(found) == len(generated) == 30
    for number, expected in generated.items():
        assert [tokens for _, tokens in found[number]] == [tokens for _, tokens in expected]
        assert [score for score, _ in found[number]] == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_backend_ctranslate2_gives_what_fairseq_generate_gives_but_for_the_mass_of_an_empty_sentence(
    data_bin, teacher, generated, tmp_path
):
    """Neither may begin with EOS: CTranslate2 takes it out before it normalises, fairseq afterwards.

    So all log-probabilities of a sentence are larger by the same -log(1 - p(EOS)), 0.02 to 0.06 for this teacher.
    """
    pytest.importorskip("ctranslate2")
    found = five_best(data_bin, teacher, tmp_path / "out", "ctranslate2")
    assert len(found) == 30
    for number, expected in generated.items():
        theirs = {tokens: (score, len(tokens.split()) + 1) for score, tokens in expected}
        common = [(score, *theirs[tokens], tokens) for score, tokens in found[number] if tokens in theirs]
        offsets = [(score - other) * length for score, other, length, _ in common]
        assert min(offsets) >= 0 and max(offsets) - min(offsets) < 1e-3 and max(offsets) < 0.1
        best = max(common, key=lambda item: item[1] + offsets[0] / item[2])
        assert len(common) >= 2 and found[number][0][1] == best[3]


def test_both_backends_mean_the_same_tokens_where_a_dictionary_holds_symbols_twice(data_bin, teacher, tmp_path):
    """All tokens are called like one of the four special ones, like one another, or like an id."""
    pytest.importorskip("ctranslate2")
    twice, names = tmp_path / "twice", ["<unk>", "<pad>", "</s>", "<s>", "<blank>", "same", "7"]
    shutil.copytree(data_bin, twice, ignore=shutil.ignore_patterns("manifest.json", "subword", "raw"))
    for lang in LANGUAGES:
        path = twice / f"dict.{lang}.txt"
        rows = [f"{names[number % 7]} 1 #fairseq:overwrite" for number, _ in enumerate(path.read_text().splitlines())]
        path.unlink()
        path.write_text("\n".join(rows) + "\n")
    write_variant(teacher, tmp_path / "teacher.pt", noise=0.1, updates=1)  # its answers differ more
    found = {}
    for backend in ("fairseq", "ctranslate2"):
        options = DecodeOptions(cpu=True, subset="test", strategy="greedy", max_len_b=30, backend=backend)
        quiet(twice, tmp_path / "teacher.pt", tmp_path / backend, options, teacher_data=twice)
        found[backend] = targets(tmp_path / backend, "test")
    assert len({token for row in found["fairseq"] for token in row}) >= 5
    assert found["ctranslate2"] == found["fairseq"]


@pytest.fixture(scope="module")
def with_empty_sources(data_bin, tmp_path_factory):
    """Five sentences; the sources of the first, the third and the last are empty, and one target is."""
    folder = tmp_path_factory.mktemp("empty") / "data"
    folder.mkdir()
    for lang, rows in (("qaa", [[], [20, 21], [], [30, 31, 32], []]), ("qab", [[40], [41, 42], [], [43], [44, 45]])):
        (folder / f"dict.{lang}.txt").write_bytes((data_bin / f"dict.{lang}.txt").read_bytes())
        writer = SideWriter(folder, f"train.qaa-qab.{lang}", Dictionary.load(str(folder / f"dict.{lang}.txt")))
        for row in rows:
            writer.add(np.array([*row, 2]))
        writer.close()
    return folder


STRATEGIES = [
    *({"backend": name, **more} for name in ("fairseq", "ctranslate2") for more in ({}, {"nbest": 3})),
    *({"strategy": name} for name in ("sample", "teacher-forcing")),
]


@pytest.mark.parametrize("how", STRATEGIES, ids=lambda how: "-".join(map(str, how.values())))
def test_the_translation_of_an_empty_source_is_empty_so_its_gold_stays(with_empty_sources, teacher, tmp_path, how):
    if how.get("backend") == "ctranslate2":
        pytest.importorskip("ctranslate2")
    limit = {} if how.get("strategy") == "teacher-forcing" else {"max_len_b": 8}
    manifest = quiet(with_empty_sources, teacher, tmp_path / "out", DecodeOptions(cpu=True, **limit, **how))
    assert manifest["fallbacks"] == {"empty_source": 3}
    found = targets(tmp_path / "out")
    assert [found[0], found[2], found[4]] == [[40], [], [44, 45]] and found[1] and found[3]
    lines = [line for line in hypotheses(tmp_path / "out") if line[0] in "024"]
    assert [line[:4] for line in lines] == [[number, "0", "*", ""] for number in "024"]
    with pytest.raises(KDError, match="gives nothing for sentence 0, whose source is empty"):
        quiet(with_empty_sources, teacher, tmp_path / "no", DecodeOptions(cpu=True, fallback="error", **limit, **how))


def test_what_is_evaluated_has_empty_translations_of_empty_sources_and_drop_empty_leaves_them_out(
    with_empty_sources, teacher, tmp_path
):
    opened = open_teachers(with_empty_sources, str(teacher), "train")
    options = TranslateOptions(cpu=True, max_len_b=8)
    models, dictionary = opened.models(torch.device("cpu")), opened.task.target_dictionary

    def translations(dataset):
        return translate(search_backend(models, opened.task, dataset, options), dictionary, "")

    lines = translations(opened.dataset)
    assert [bool(line) for line in lines] == [False, True, False, True, False]
    noised = opened.task.build_dataset_for_inference([torch.tensor([20, 21, 2]), torch.tensor([2])], np.array([3, 1]))
    assert translations(noised) == [lines[1], ""]
    dropped = quiet(with_empty_sources, teacher, tmp_path / "out", DecodeOptions(cpu=True, drop_empty=True))
    assert dropped["dropped"] == {"empty": 3} and dropped["pairs"] == 2


def test_the_closest_of_the_five_best_is_chosen(data_bin, teacher, tmp_path):
    options = DecodeOptions(cpu=True, subset="test", nbest=5, max_len_b=30, select="closest", metric="chrf")
    quiet(data_bin, teacher, tmp_path / "out", options)
    lines = hypotheses(tmp_path / "out")
    for number in range(30):
        group = [line for line in lines if line[0] == str(number)]
        scores = [float(line[4]) for line in group]
        assert [line[2] for line in group].index("*") == int(np.argmax(scores))
    chosen = [line[5].split() for line in lines if line[2] == "*"]
    symbols = open_data(data_bin, LANGUAGES, "test").target_dictionary.symbols
    assert [[symbols[token] for token in row] for row in targets(tmp_path / "out", "test")] == chosen


def test_samples_depend_on_the_seed_and_on_nothing_else(data_bin, teacher, tmp_path):
    def sampled(name, seed, shards):
        options = DecodeOptions(cpu=True, subset="test", strategy="sample", seed=seed, max_len_b=20)
        for shard in range(shards):
            torch.rand(shard + 1)  # whatever ran before
            quiet(data_bin, teacher, tmp_path / name, options, shard=(shard, shards), block_sentences=10)
        return targets(tmp_path / name, "test")

    assert sampled("a", 1, 1) == sampled("b", 1, 3) != sampled("c", 2, 1)


def test_an_ensemble_of_one_teacher_twice_is_that_teacher(data_bin, teacher, tmp_path):
    for name, path in (("one", teacher), ("two", f"{teacher}:{teacher}")):
        options = DecodeOptions(cpu=True, subset="test", backend="fairseq", max_len_b=20)
        quiet(data_bin, path, tmp_path / name, options)
    assert targets(tmp_path / "one", "test") == targets(tmp_path / "two", "test")
