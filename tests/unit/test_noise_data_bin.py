import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from fairseq.data import Dictionary

from fairseq_kd.artifacts.derived import SideWriter
from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.manifest import check_files, read_manifest
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.entry import text_files
from fairseq_kd.corpus.prepare import prepare
from fairseq_kd.corpus.prepare_options import PrepareOptions
from fairseq_kd.corpus.subword import load_subword_models
from fairseq_kd.corpus.text import write_lines
from fairseq_kd.evaluation.segments import Segments
from fairseq_kd.inference.opening import open_data
from fairseq_kd.noise.data_bin import noise_data_bin
from fairseq_kd.noise.operations import BLOCK_LINES, NoiseOptions

LANGUAGES = ("qaa", "qab")
MIX = {"delete": 0.15, "substitute": 0.15, "swap": 0.15}
SOURCE, TARGET = "train.qaa-qab.qaa.bin", "train.qaa-qab.qab.bin"


def noise(data_bin, out, sides=("source",), seed=1, subset="train", workers=1, post_process=None, **options):
    options = NoiseOptions(**options)
    return noise_data_bin(
        data_bin, out, options, sides=sides, seed=seed, subset=subset, workers=workers, post_process=post_process
    )


def symbols(folder, side="src", subset="train") -> list[list[str]]:
    task = open_data(folder, LANGUAGES, subset)
    dictionary = task.source_dictionary if side == "src" else task.target_dictionary
    sentences = getattr(task.dataset(subset), side)
    assert all(ids[-1] == dictionary.eos() for ids in sentences)
    return [[dictionary[i] for i in ids[:-1]] for ids in sentences]


@pytest.fixture(scope="module")
def bpe_data_bin(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("bpe") / "data-bin"
    options = PrepareOptions(subword="subword-nmt", vocab_size=60)
    prepare("text", text_files(corpus, *LANGUAGES), *LANGUAGES, out, options, say=lambda line: None)
    return out


@pytest.fixture(params=["sentencepiece", "subword-nmt"])
def any_data_bin(request, data_bin, bpe_data_bin):
    return data_bin if request.param == "sentencepiece" else bpe_data_bin


def test_words_are_whole_and_segmented_as_the_model_would_segment_the_noisy_text(any_data_bin, tmp_path):
    manifest = noise(any_data_bin, tmp_path / "out", **MIX)
    before, after = symbols(any_data_bin), symbols(tmp_path / "out")
    model = load_subword_models(any_data_bin, *LANGUAGES)["qaa"]
    words = {word for line in before for word in model.decode(" ".join(line)).split()}
    assert len(after) == len(before) == manifest["sentences"] and after != before
    for line in after:
        text = model.decode(" ".join(line))
        assert text and set(text.split()) <= words
        assert model.encode(text).split() == line
    report = manifest["noise"]["qaa"]
    count = sum(len(model.decode(" ".join(line)).split()) for line in before)
    assert report["units"] == count and report["types"] == len(words)
    assert count - report["rates"]["delete"]["done"] == sum(len(model.decode(" ".join(line)).split()) for line in after)


def test_subwords_are_the_symbols_themselves(data_bin, tmp_path):
    noise(data_bin, tmp_path / "out", level="subword", delete=0.2)
    shorter = 0
    for before, after in zip(symbols(data_bin), symbols(tmp_path / "out"), strict=True):
        remaining = iter(before)
        assert after and all(symbol in remaining for symbol in after)
        shorter += len(after) < len(before)
    assert shorter > 300


def test_characters_are_encoded_again_and_unchanged_sentences_keep_their_ids(any_data_bin, tmp_path):
    noise(any_data_bin, tmp_path / "out", level="char", delete=0.02)
    model = load_subword_models(any_data_bin, *LANGUAGES)["qaa"]
    same = 0
    for before, after in zip(symbols(any_data_bin), symbols(tmp_path / "out"), strict=True):
        old, new = model.decode(" ".join(before)), model.decode(" ".join(after))
        remaining = iter(old)
        assert all(char in remaining for char in new)
        assert after == model.encode(new).split()
        same += before == after
    assert 20 < same < 380


def test_everything_else_is_the_original(data_bin, tmp_path):
    manifest = noise(data_bin, tmp_path / "out", **MIX)
    for path in sorted(data_bin.rglob("*")):
        name = path.relative_to(data_bin)
        if path.is_file() and str(name) not in (SOURCE, SOURCE.replace(".bin", ".idx"), "manifest.json"):
            assert (tmp_path / "out" / name).read_bytes() == path.read_bytes(), name
    assert (tmp_path / "out" / SOURCE).read_bytes() != (data_bin / SOURCE).read_bytes()
    check_files(tmp_path / "out", manifest["files"])
    assert set(manifest["files"]) == set(read_manifest(data_bin)["files"])
    assert manifest["subsets"] == read_manifest(data_bin)["subsets"]


def test_noise_of_an_evaluation_set_reaches_its_plain_text(data_bin, tmp_path):
    manifest = noise(data_bin, tmp_path / "out", subset="test", **MIX)
    out, model = tmp_path / "out", load_subword_models(data_bin, *LANGUAGES)["qaa"]
    lines = (out / "raw" / "test.qaa").read_text().splitlines()
    assert lines == [model.decode(" ".join(line)) for line in symbols(out, subset="test")]
    assert lines != (data_bin / "raw" / "test.qaa").read_text().splitlines()
    assert (out / "raw" / "test.qab").read_bytes() == (data_bin / "raw" / "test.qab").read_bytes()
    assert (out / SOURCE).read_bytes() == (data_bin / SOURCE).read_bytes()
    assert manifest["subsets"]["test"]["pairs"] == 30
    again = noise(out, tmp_path / "again", sides=("target",), **MIX)  # a noisy data-bin is a data-bin
    assert (tmp_path / "again" / "raw" / "test.qaa").read_bytes() == (out / "raw" / "test.qaa").read_bytes()
    assert list(again["noise"]) == ["qab"]


@pytest.fixture
def large(data_bin, tmp_path):
    """A data-bin of words whose test set has two blocks and a bit, all sentences different, with its plain text."""
    folder = tmp_path / "large"
    (folder / "raw").mkdir(parents=True)
    for lang in LANGUAGES:
        shutil.copyfile(data_bin / f"dict.{lang}.txt", folder / f"dict.{lang}.txt")
        dictionary = Dictionary.load(str(folder / f"dict.{lang}.txt"))
        rows = [[10 + n // 2500, 10 + n // 50 % 50, 10 + n % 50, *[70 + n % 9] * (n % 4)] for n in range(9_000)]
        writer = SideWriter(folder, f"test.qaa-qab.{lang}", dictionary)
        for row in rows:
            writer.add([*row, dictionary.eos()])
        writer.close()
        write_lines(folder / "raw" / f"test.{lang}", [" ".join(dictionary[i] for i in row) for row in rows])
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_plain_text_of_more_than_a_block_stays_aligned_line_by_line(large, tmp_path, workers):
    out = tmp_path / "out"
    manifest = noise(large, out, subset="test", post_process="none", sentence_share=0.5, workers=workers, **MIX)
    lines = (out / "raw" / "test.qaa").read_text().splitlines()
    assert len(lines) == manifest["sentences"] == 9_000 > 2 * BLOCK_LINES
    assert lines == [" ".join(line) for line in symbols(out, subset="test")]
    before = (large / "raw" / "test.qaa").read_text().splitlines()
    assert 2_500 < sum(a != b for a, b in zip(before, lines, strict=True)) < 4_500
    assert (out / "raw" / "test.qab").read_bytes() == (large / "raw" / "test.qab").read_bytes()


@pytest.mark.parametrize("lines", [8_999, 9_001])
def test_plain_text_with_another_number_of_lines_is_refused(large, tmp_path, lines):
    write_lines(large / "raw" / "test.qaa", ["a"] * lines)
    with pytest.raises(KDError, match=f"has {lines:,} lines, the binary data next to it 9,000 sentences"):
        noise(large, tmp_path / "out", subset="test", post_process="none", **MIX)
    assert not (tmp_path / "out").exists()


def test_evaluate_refuses_source_text_that_is_not_aligned(large):
    source = large / "raw" / "test.qaa"
    for lines, sentences in ((9_000, 9_000), (9_000, 8_999), (9_000, 9_001)):
        segments = Segments(["reference"] * sentences, str, source, {})
        system = SimpleNamespace(task=SimpleNamespace(source_dictionary=None), dataset=range(sentences))
        if lines == sentences:
            assert len(segments.sources(system)) == lines
        else:
            with pytest.raises(KDError, match=f"has 9,000 lines, the binary data next to it {sentences:,} sentences"):
                segments.sources(system)


def test_workers_and_further_training_files_change_nothing(data_bin, tmp_path):
    """train1 goes on where train ended: its blocks have other numbers, so other noise."""
    source = tmp_path / "two"
    shutil.copytree(data_bin, source)
    for name in (SOURCE, TARGET):
        for ending in ("bin", "idx"):
            path = source / name.replace("bin", ending)
            shutil.copyfile(path, source / path.name.replace("train.", "train1."))
    options = {"sides": ("source", "target"), "level": "subword", "post_process": None, **MIX}
    manifests = [noise(source, tmp_path / str(n), workers=n, **options) for n in (1, 3)]
    assert manifests[0] == manifests[1]
    sources = symbols(tmp_path / "1")
    assert len(sources) == 800 and sources[:400] != sources[400:]


def test_a_finished_data_bin_is_kept_and_another_request_refused(data_bin, tmp_path):
    manifest = noise(data_bin, tmp_path / "out", delete=0.1)
    assert noise(data_bin, tmp_path / "out", delete=0.1) == manifest
    with pytest.raises(KDError, match=r"was made with options\.delete 0.1, this command has 0.2"):
        noise(data_bin, tmp_path / "out", delete=0.2)
    words = ["noise", "--data-bin", str(data_bin), "--out", str(tmp_path / "out"), "--delete", "0.1"]
    assert main(words) == 0


def test_a_data_bin_of_fairseq_preprocess_needs_to_know_how_subwords_make_words(data_bin, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(data_bin, plain, ignore=shutil.ignore_patterns("manifest.json", "raw", "subword"))
    with pytest.raises(KDError, match="fairseq-kd adopt .* or give --post-process .*, or --level subword"):
        noise(plain, tmp_path / "out", delete=0.1)
    with pytest.raises(KDError, match="fairseq-kd adopt .* or give a --level and a --word-tokenizer that"):
        noise(plain, tmp_path / "out", delete=0.1, level="char", post_process="sentencepiece")
    with pytest.raises(KDError, match="--post-process words: must be one of"):
        noise(plain, tmp_path / "out", delete=0.1, post_process="words")
    with pytest.raises(KDError, match="has its own subword model"):
        noise(data_bin, tmp_path / "out", delete=0.1, post_process="sentencepiece")
    with pytest.raises(KDError, match="--post-process has no effect with --level subword"):
        noise(plain, tmp_path / "out", delete=0.1, level="subword", post_process="sentencepiece")
    noise(plain, tmp_path / "out", delete=0.1, post_process="sentencepiece")
    noise(data_bin, tmp_path / "same", delete=0.1)
    assert (tmp_path / "out" / SOURCE).read_bytes() == (tmp_path / "same" / SOURCE).read_bytes()


def record_again(folder, name):
    """Write the manifest for the present content of a file, as if the data-bin had been made with it."""
    manifest = read_manifest(folder)
    manifest["files"][name] = sha256_file(folder / name)
    write_record(folder / "manifest.json", manifest)


def test_bad_data_bins_are_refused(data_bin, tmp_path):
    with pytest.raises(KDError, match="has no subset 'dev'"):
        noise(data_bin, tmp_path / "out", delete=0.1, subset="dev")
    damaged = tmp_path / "damaged"
    shutil.copytree(data_bin, damaged)
    ids = np.fromfile(damaged / SOURCE, dtype=np.uint16)
    ids[3] = 2
    ids.tofile(damaged / SOURCE)
    record_again(damaged, SOURCE)
    with pytest.raises(KDError, match="sentence 1 has the end-of-sentence symbol in its middle.*the word </s>"):
        noise(damaged, tmp_path / "out", delete=0.1)
    assert BLOCK_LINES > 400 and not (tmp_path / "out").exists()


def test_unknown_tokens_survive_on_every_level(data_bin, tmp_path):
    odd = tmp_path / "odd"
    shutil.copytree(data_bin, odd)
    ids = np.fromfile(odd / SOURCE, dtype=np.uint16)
    ids[1::7] = np.where(ids[1::7] == 2, 2, 3)  # <unk>
    ids.tofile(odd / SOURCE)
    record_again(odd, SOURCE)
    before = sum(line.count("<unk>") for line in symbols(odd))
    for level in ("word", "subword", "char"):
        noise(odd, tmp_path / level, level=level, swap=0.1, sentence_share=0.5)
        after = sum(line.count("<unk>") for line in symbols(tmp_path / level))
        assert after == before if level != "char" else abs(after - before) < before / 20
