import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from corpora_helpers import (
    IWSLT14_SETS,
    IWSLT17_SETS,
    iwslt_members,
    sentence,
    tar,
    wmt_archives,
    zipped,
)

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus.campaign import ArchiveCorpus, Part, read_plain, read_segments, read_tagged
from fairseq_kd.corpus.clean import Tokenise
from fairseq_kd.corpus.corpora import CORPORA, usual_options
from fairseq_kd.corpus.download import Archive, archive_hash
from fairseq_kd.corpus.files import extract
from fairseq_kd.corpus.text import CleaningRules
from fairseq_kd.study.key import raw_text

LOCAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def prepare(name, raw, out, *extra):
    return main([str(word) for word in ("prepare", name, "--raw", raw, "--out", out, "--vocab-size", "70", *extra)])


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def raw_lines(out, subset, lang):
    return (out / "raw" / f"{subset}.{lang}").read_text().splitlines()


@pytest.fixture
def iwslt14(tmp_path):
    members = iwslt_members("de-en", IWSLT14_SETS, 92, tags_of_2014=True)
    return write(tmp_path / "raw14", {"de-en.tgz": tar(members)})


def test_iwslt14_is_split_and_tokenised_as_usual(iwslt14, tmp_path):
    assert prepare("iwslt14.de-en", iwslt14, tmp_path / "out") == 0
    manifest = read_manifest(tmp_path / "out")
    # 92 sentences, and title and description of two talks; every 23rd is for validation, the other tags are no text
    assert {name: found["pairs"] for name, found in manifest["subsets"].items()} == {
        "train": 92,
        "valid": 4,
        "test": 20,
    }
    # lines 23 and 46: the first talk begins with title and description
    assert raw_lines(tmp_path / "out", "valid", "de")[:2] == [
        "das haus nr. 20 ist schön , oder ?",
        "das haus nr. 43 ist schön , oder ?",
    ]
    assert raw_lines(tmp_path / "out", "valid", "en")[0] == "house no. 20 is fine , isn &apos;t it ?"
    assert raw_lines(tmp_path / "out", "test", "en")[3] == "q &amp; a &apos;s 2010 en"
    years = [line.split()[-2] for line in raw_lines(tmp_path / "out", "test", "de")[3::4]]
    assert years == ["2010", "2012", "2010", "2011", "2012"]
    assert manifest["form"] == "lower-cased" and manifest["subword"]["kind"] == "subword-nmt"


def test_the_cased_edition_keeps_the_same_pairs_as_they_are(iwslt14, tmp_path):
    assert prepare("iwslt14.de-en", iwslt14, tmp_path / "tokenised") == 0
    assert prepare("iwslt14.de-en", iwslt14, tmp_path / "cased", "--form", "cased") == 0
    lines = {name: raw_lines(tmp_path / name, "valid", "en") for name in ("tokenised", "cased")}
    assert lines["cased"][0] == sentence("en", 20)
    tokenise = Tokenise("en", lower=True)
    assert [tokenise(line) for line in lines["cased"]] == lines["tokenised"]
    assert raw_lines(tmp_path / "cased", "test", "en")[3] == "Q&A’s 2010 en"
    manifest = read_manifest(tmp_path / "cased")
    assert manifest["subword"]["kind"] == "sentencepiece" and manifest["subsets"]["train"]["pairs"] == 92


def test_processes_that_tokenise_change_nothing(iwslt14, tmp_path):
    assert prepare("iwslt14.de-en", iwslt14, tmp_path / "one") == 0
    assert prepare("iwslt14.de-en", iwslt14, tmp_path / "two", "--workers", "2") == 0
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()


@pytest.mark.parametrize("shape", ["tgz", "zip", "unpacked", "nested"])
def test_iwslt17_is_read_from_an_archive_of_any_kind(shape, tmp_path):
    members = iwslt_members("en-fr", IWSLT17_SETS, 60)
    files = {
        "tgz": {"en-fr.tgz": tar(members)},
        "zip": {"en-fr.zip": zipped(members)},
        "unpacked": members,
        "nested": {"2017-01-trnted.tgz": tar({"2017-01-trnted/texts/en/fr/en-fr.tgz": tar(members)})},
    }[shape]
    raw = write(tmp_path / "raw", files)
    assert prepare("iwslt17.en-fr", raw, tmp_path / "out") == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest["subsets"]["train"]["pairs"] == 64
    assert manifest["subsets"]["valid"]["pairs"] == manifest["subsets"]["test5"]["pairs"] == 4
    assert "tst2015" in manifest["subsets"]["test"]["corpus_name"]
    assert raw_lines(tmp_path / "out", "test", "fr")[3] == "Q&A’s 2015 fr"
    assert list(manifest["request"]["origin"]["archives"]) == sorted(
        name for name in files if shape != "unpacked" or not name.endswith("README")
    )
    assert not (tmp_path / "out" / "scratch").exists()
    if shape == "unpacked":
        assert all((raw / name).is_file() for name in members), "the user's own files stay"


@pytest.mark.parametrize("languages", [(), ("-s", "de", "-t", "en")])
def test_wmt14_is_read_in_both_directions(languages, tmp_path):
    raw = write(tmp_path / "raw", {name: tar(members) for name, members in wmt_archives().items()})
    assert prepare("wmt14.en-de", raw, tmp_path / "out", *languages) == 0
    manifest = read_manifest(tmp_path / "out")
    assert {name: found["pairs"] for name, found in manifest["subsets"].items()} == {"train": 90, "valid": 2, "test": 2}
    assert manifest["request"]["languages"] == (["de", "en"] if languages else ["en", "de"])
    assert raw_lines(tmp_path / "out", "test", "de")[1] == 'AT&T "1 < 2" de'
    assert len(list(raw.glob("*.sha256"))) == 5


def test_wmt14_en_fr_holds_five_corpora(tmp_path):
    archives = wmt_archives("fr", pairs=10)
    text = {lang: "".join(f"{sentence(lang, n)}\n" for n in range(10)).encode() for lang in ("en", "fr")}
    archives["training-parallel-un.tgz"] = {f"un/undoc.2000.fr-en.{lang}": text[lang] for lang in text}
    archives["training-giga-fren.tar"] = {
        f"giga-fren.release2.fixed.{lang}.gz": gzip.compress(text[lang]) for lang in text
    }
    raw = write(tmp_path / "raw", {name: tar(members) for name, members in archives.items()})
    assert prepare("wmt14.en-fr", raw, tmp_path / "out") == 0
    assert read_manifest(tmp_path / "out")["subsets"]["train"]["pairs"] == 50


def test_a_finished_data_bin_is_kept_and_a_changed_archive_is_refused(iwslt14, tmp_path, capsys):
    assert prepare("iwslt14.de-en", iwslt14, tmp_path / "out") == 0
    assert prepare("iwslt14.de-en", iwslt14, tmp_path / "out") == 0
    assert "complete and unchanged" in capsys.readouterr().err
    archive = iwslt14 / "de-en.tgz"
    members = iwslt_members("de-en", IWSLT14_SETS, 90, tags_of_2014=True)
    archive.write_bytes(tar(members))
    assert prepare("iwslt14.de-en", iwslt14, tmp_path / "other") == 2
    assert "not the archive that was used first" in capsys.readouterr().err
    (iwslt14 / "de-en.tgz.sha256").unlink()
    assert prepare("iwslt14.de-en", iwslt14, tmp_path / "out") == 2
    assert "was made with origin.archives.de-en.tgz " in capsys.readouterr().err


def other_year(members):
    return {name.replace("IWSLT14", "IWSLT15"): content for name, content in members.items()}


def one_line_less(members):
    name = "de-en/train.tags.de-en.en"
    return members | {name: members[name].rstrip(b"\n").rpartition(b"\n")[0] + b"\n"}


def broken_xml(members):
    name = "de-en/IWSLT14.TED.tst2011.de-en.de.xml"
    return members | {name: members[name][:-30]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_year, r"lacks de-en/IWSLT14.TED.dev2010.de-en.de.xml, .*it holds de-en/IWSLT15"),
        (one_line_less, r"train.tags.de-en.de has 96 sentences and .*.en has 95"),
        (broken_xml, r"tst2011.de-en.de.xml is damaged"),
        (lambda members: {f"x/{name}": text for name, text in members.items()} | members, "twice"),
    ],
)
def test_another_layout_is_one_error_and_nothing_is_left(damage, message, tmp_path, capsys):
    import re

    members = damage(iwslt_members("de-en", IWSLT14_SETS, 92, tags_of_2014=True))
    raw = write(tmp_path / "raw", {"de-en.tgz": tar(members)})
    assert prepare("iwslt14.de-en", raw, tmp_path / "made" / "out") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fairseq_kd: error:")]
    assert len(lines) == 1 and re.search(message, lines[0]), lines
    assert list((tmp_path / "made").iterdir()) == []


def test_half_an_archive_a_wrong_pair_and_a_missing_address_are_refused(iwslt14, tmp_path, capsys):
    assert prepare("iwslt14.de-en", iwslt14, tmp_path / "out", "-s", "de", "-t", "fr") == 2
    assert "iwslt14.de-en is de-en, or en-de" in capsys.readouterr().err
    whole = (iwslt14 / "de-en.tgz").read_bytes()
    half = write(tmp_path / "half", {"de-en.tgz": whole[: len(whole) // 2]})
    assert prepare("iwslt14.de-en", half, tmp_path / "out") == 2
    assert "is damaged" in capsys.readouterr().err
    assert main(["prepare", "iwslt13.en-fr", "--out", str(tmp_path / "out")]) == 2
    assert "no address is known" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_member_is_written_outside_and_links_are_refused(tmp_path):
    outside = tar({"../../de-en/x": b"text"})
    (tmp_path / "a.tgz").write_bytes(outside)
    (tmp_path / "made").mkdir()
    assert extract(tmp_path / "a.tgz", ["de-en/x"], tmp_path / "made") == {"de-en/x": tmp_path / "made" / "0-x"}
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as file:
        info = tarfile.TarInfo("de-en/x")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
    (tmp_path / "b.tgz").write_bytes(data.getvalue())
    with pytest.raises(KDError, match="is a link"):
        extract(tmp_path / "b.tgz", ["de-en/x"], tmp_path / "made")


def test_tagged_text_keeps_titles_and_drops_the_other_tags(tmp_path):
    (tmp_path / "train").write_text("<url>u</url>\n<title>A <b> title</title>\nx < y\n<reviewer></reviewer>\n\n")
    assert list(read_tagged(tmp_path / "train", ("url", "reviewer"))) == [b"A <b> title", b"x < y", b""]


@pytest.mark.parametrize("content", ["<srcset><doc></doc></srcset>", "<seg id=1>a <seg id=2>b</seg>", "<seg id=1>a"])
def test_an_evaluation_set_without_whole_segments_is_refused(tmp_path, content):
    (tmp_path / "x.sgm").write_text(content)
    with pytest.raises(KDError):
        list(read_segments(tmp_path / "x.sgm"))


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A corpus that only this test knows: its entry, with the address and the hash of a tiny archive."""
    text = {lang: {"train": 60, "dev": 3, "eval": 4} for lang in ("de", "en")}
    members = {
        f"toy/{stem}.{lang}": "".join(f"{sentence(lang, n)}\n" for n in range(count)).encode()
        for lang, stems in text.items()
        for stem, count in stems.items()
    }
    served = write(tmp_path / "served", {"toy.tgz": tar(members)})
    sha256 = hashlib.sha256((served / "toy.tgz").read_bytes()).hexdigest()
    archive = Archive("toy", (f"{served.as_uri()}/toy.tgz",), sha256=sha256)
    stems = {"train": "train", "valid": "dev", "test": "eval"}
    subsets = {name: (Part(archive, f"toy/{stem}.{{lang}}", read_plain),) for name, stem in stems.items()}
    corpus = ArchiveCorpus("toy.de-en", ("de", "en"), subsets, {"vocab_size": 70, "rules": CleaningRules(max_words=7)})
    monkeypatch.setitem(CORPORA, corpus.name, corpus)
    monkeypatch.setenv("FAIRSEQ_KD_CACHE", str(tmp_path / "cache"))
    return served / "toy.tgz", sha256


def test_a_new_corpus_is_one_entry(toy, tmp_path):
    assert main(["prepare", "toy.de-en", "--out", str(tmp_path / "out")]) == 0
    manifest = read_manifest(tmp_path / "out")
    assert {name: found["pairs"] for name, found in manifest["subsets"].items()} == {"train": 60, "valid": 3, "test": 4}
    assert manifest["request"]["origin"] == {"archives": {"toy.tgz": toy[1]}}
    assert manifest["request"]["languages"] == ["de", "en"]
    options = manifest["request"]["options"]
    assert (options["vocab_size"], options["rules"]["max_words"]) == (70, 7)
    assert raw_lines(tmp_path / "out", "test", "en") == [sentence("en", n) for n in range(4)]
    assert [path.name for path in (tmp_path / "cache" / "toy.de-en").iterdir()] == ["toy.tgz"]


def test_an_archive_whose_hash_the_entry_knows_must_have_it(toy, tmp_path, capsys):
    archive, _ = toy
    raw = write(tmp_path / "raw", {"toy.tgz": archive.read_bytes() + b"more"})
    assert main(["prepare", "toy.de-en", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 2
    assert "toy.tgz has sha256" in capsys.readouterr().err
    archive.write_bytes(archive.read_bytes() + b"more")
    assert main(["prepare", "toy.de-en", "--out", str(tmp_path / "out")]) == 2
    assert "toy.tgz has sha256" in capsys.readouterr().err
    assert list((tmp_path / "cache" / "toy.de-en").iterdir()) == [] and not (tmp_path / "out").exists()


def test_an_archive_that_is_replaced_after_its_hash_was_compared_is_named(toy):
    (archive, sha256), inputs = toy, Inputs()
    assert archive_hash(Archive("toy", sha256=sha256), archive, inputs) == sha256
    archive.write_bytes(archive.read_bytes() + b"more")
    with pytest.raises(KDError, match=r"toy\.tgz was changed or replaced"):
        inputs.check()


def test_commands_and_studies_know_a_new_corpus(toy, tmp_path, capsys):
    assert main(["prepare", "toy.de-en", "--out", str(tmp_path / "out"), "--pairs", "9"]) == 2
    assert "--pairs has no effect with toy.de-en; it is for synthetic" in capsys.readouterr().err
    data = {"name": "toy.de-en", "source-lang": "de", "target-lang": "en", "raw": str(toy[0].parent)}
    found = raw_text("my.yaml", data)
    assert found.subsets == ("train", "valid", "test")
    assert found.hashes == {"toy.tgz": toy[0].stat().st_size}


def test_options_given_go_before_the_usual_ones(tmp_path):
    usual = usual_options("iwslt14.de-en", {})
    assert (usual.vocab_size, usual.rules.max_ratio, usual.valid_every) == (10_000, 1.5, 23)
    given = usual_options("iwslt14.de-en", {"vocab_size": 500, "max_words": 20})
    assert (given.vocab_size, given.rules.max_words, given.rules.max_ratio) == (500, 20, 1.5)
    assert usual_options("wmt14.en-de", {"like": "x"}).vocab_size == 8_000  # the size of the other data-bin


def test_addresses_have_endings_that_are_read():
    archives = [archive for corpus in CORPORA.values() for archive in getattr(corpus, "archives", ())]
    assert len(archives) == 15
    for archive in archives:
        assert all(url.startswith("http") and url.endswith((".tgz", ".tar")) for url in archive.urls)


@pytest.mark.skipif(not (LOCAL / "iwslt17").is_dir(), reason="no local copy of the IWSLT17 evaluation sets")
def test_real_evaluation_sets_are_read_and_aligned():
    counts = {}
    for path in sorted((LOCAL / "iwslt17").glob("*.xml")):
        lines = list(read_segments(path))
        assert len(lines) == path.read_text(encoding="utf-8").count("<seg ")
        counts.setdefault(path.name.split(".")[2], set()).add(len(lines))
    assert len(counts) == 7 and all(len(both) == 1 for both in counts.values())


@pytest.mark.skipif(not (LOCAL / "iwslt14").is_dir(), reason="no local copy of the usual IWSLT14 test set")
@pytest.mark.parametrize("lang", ["de", "en"])
def test_tokenised_sentences_are_those_of_the_usual_test_set(lang):
    """tst2011 is the same in 2014 and 2017; the usual test set was made by the Moses scripts."""
    with gzip.open(LOCAL / "iwslt14" / f"test.de-en.{lang}.gz", "rt", encoding="utf-8", newline="\n") as file:
        usual = [line.rstrip("\n") for line in file]
    tokenise = Tokenise(lang, lower=True)
    path = LOCAL / "iwslt17" / f"IWSLT17.TED.tst2011.en-de.{lang}.xml"
    lines = [tokenise(line.decode().strip().replace("’", "'")) for line in read_segments(path)]
    first = usual.index(lines[0])
    assert usual[first : first + len(lines)] == lines
