import http.server
import os
import resource
import threading

import pytest
from corpora_helpers import IWSLT17_SETS, iwslt_members, tar

from fairseq_kd.cli.main import main
from fairseq_kd.core.errors import KDError
from fairseq_kd.corpus import campaign, corpora, download


class RangeServer(http.server.BaseHTTPRequestHandler):
    """Serves `files` (path -> bytes) with Range and If-Range; `cut` ends an answer after that number of bytes."""

    files, cut, requests, tag = {}, None, [], '"v1"'

    def do_GET(self):
        content = self.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        self.requests.append((self.path, wanted))
        start = 0
        if wanted is not None and self.headers.get("If-Range") == self.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", self.tag)
        self.end_headers()
        self.wfile.write(content[start:] if self.cut is None else content[start : start + self.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """(handler class, base address)"""
    monkeypatch.setenv("FAIRSEQ_KD_CACHE", str(tmp_path / "cache"))
    handler = type("Handler", (RangeServer,), {"files": {}, "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def fetch(url, path):
    """All of `url` or the rest of it, beside `path`; the caller is the only process."""
    return download.fetch(url, path)


def test_an_interrupted_download_continues_where_it_ended(server, tmp_path):
    handler, address = server
    content = bytes(range(256)) * 20
    handler.files["/x"], handler.cut = content, 1000
    for done in (1000, 2000):
        with pytest.raises(KDError, match=f"after {done:,} of 5,120 bytes"):
            fetch(f"{address}/x", tmp_path / "x")
    handler.cut = None
    part = fetch(f"{address}/x", tmp_path / "x")
    assert part.read_bytes() == content
    assert [wanted for _, wanted in handler.requests] == [None, "bytes=1000-", "bytes=2000-"]
    assert not (tmp_path / "x").exists() and [path.name for path in tmp_path.iterdir()] == [part.name]


def test_what_was_fetched_of_another_version_is_not_used(server, tmp_path):
    handler, address = server
    handler.files["/x"], handler.cut = b"a" * 100, 60
    with pytest.raises(KDError):
        fetch(f"{address}/x", tmp_path / "x")
    handler.files["/x"], handler.cut, handler.tag = b"b" * 100, None, '"v2"'
    assert fetch(f"{address}/x", tmp_path / "x").read_bytes() == b"b" * 100


def test_a_damaged_record_of_a_part_makes_it_fetched_from_its_beginning(server, tmp_path):
    handler, address = server
    handler.files["/x"], handler.cut = b"a" * 100, 60
    with pytest.raises(KDError):
        fetch(f"{address}/x", tmp_path / "x")
    (tmp_path / ".x.part.json").write_text('{"url": ')
    handler.cut = None
    assert fetch(f"{address}/x", tmp_path / "x").read_bytes() == b"a" * 100
    assert [wanted for _, wanted in handler.requests] == [None, None]


def test_a_full_disk_is_not_blamed_on_the_network(iwslt17, tmp_path):
    iwslt17.files["/page/en-fr.tgz"] = bytes(300_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(KDError, match=r"^cannot write \S+/\.en-fr\.tgz\.part \(File too large\): make room"):
            download.locate_archives("iwslt17.en-fr", corpora.CORPORA["iwslt17.en-fr"].archives)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path, _ in iwslt17.requests] == ["/page/en-fr.tgz"]


def test_a_download_killed_before_its_last_step_is_whole(server, tmp_path):
    handler, address = server
    handler.files["/x"] = b"a" * 100
    part = fetch(f"{address}/x", tmp_path / "x")
    part.with_name(f"{part.name}.json").write_text(f'{{"url": "{address}/x", "version": "\\"v1\\""}}')
    assert fetch(f"{address}/x", tmp_path / "x").read_bytes() == b"a" * 100
    assert handler.requests[-1] == ("/x", "bytes=100-")


@pytest.mark.parametrize(
    "state", ["", "[]", '{"url": "', '{"url": "ADDRESS"}', '{"url": "ADDRESS", "version": "v", "seal": "0"}']
)
def test_a_download_whose_state_is_damaged_begins_again(server, tmp_path, state):
    handler, address = server
    handler.files["/x"], handler.cut = b"a" * 100, 60
    with pytest.raises(KDError):
        fetch(f"{address}/x", tmp_path / "x")
    (file,) = tmp_path.glob("*.json")
    file.write_text(state.replace("ADDRESS", f"{address}/x"))
    handler.cut = None
    assert fetch(f"{address}/x", tmp_path / "x").read_bytes() == b"a" * 100
    assert handler.requests == [("/x", None), ("/x", None)]


@pytest.fixture
def iwslt17(server, monkeypatch):
    """The corpus with its addresses on the local server: the first gives a page, the second the archive."""
    handler, address = server
    handler.files["/page/en-fr.tgz"] = b"<html>moved</html>"
    handler.files["/en-fr.tgz"] = tar(iwslt_members("en-fr", IWSLT17_SETS, 60))
    official = corpora.CORPORA["iwslt17.en-fr"]
    archive = campaign.Archive("en-fr", (f"{address}/page/en-fr.tgz", f"{address}/en-fr.tgz"))
    subsets = {
        subset: tuple(campaign.Part(archive, part.path, part.read) for part in parts)
        for subset, parts in official.subsets.items()
    }
    local = campaign.ArchiveCorpus(official.name, official.languages, subsets, official.usual)
    monkeypatch.setitem(corpora.CORPORA, official.name, local)
    return handler


def cache_of(tmp_path):
    return tmp_path / "cache" / "iwslt17.en-fr"


def test_a_second_download_waits_for_the_first_says_so_and_fetches_nothing(iwslt17, tmp_path, capsys, monkeypatch):
    """The first is held between its last byte and the file's name: there the lock must still be held."""
    fetched, may_go_on, codes, replace = threading.Event(), threading.Event(), {}, os.replace

    def slow(source, destination):
        if str(destination).endswith("en-fr.tgz") and not fetched.is_set():
            fetched.set()
            assert may_go_on.wait(60)
        replace(source, destination)

    monkeypatch.setattr(os, "replace", slow)
    first = threading.Thread(target=lambda: codes.update(first=prepare(tmp_path / "a")))
    second = threading.Thread(target=lambda: codes.update(second=prepare(tmp_path / "b")))
    first.start()
    assert fetched.wait(60)
    second.start()
    second.join(2)  # it has had time to fail, or to fetch the file again
    may_go_on.set()
    first.join(120)
    second.join(120)
    assert codes == {"first": 0, "second": 0}
    assert [path for path, _ in iwslt17.requests].count("/en-fr.tgz") == 1
    assert "en-fr.tgz: waiting for it" in capsys.readouterr().err
    assert sorted(path.name for path in cache_of(tmp_path).iterdir()) == ["en-fr.tgz", "en-fr.tgz.sha256"]


def test_an_archive_that_was_cut_off_is_not_taken_and_not_recorded(iwslt17, tmp_path, capsys):
    """As by a server that does not say how long its answer is."""
    whole = iwslt17.files["/en-fr.tgz"]
    iwslt17.files["/en-fr.tgz"] = whole[: len(whole) * 2 // 3]
    assert prepare(tmp_path / "a") == 2
    assert "en-fr.tgz gave an archive that was cut off or damaged" in capsys.readouterr().err
    assert list(cache_of(tmp_path).iterdir()) == []
    cache_of(tmp_path).mkdir(exist_ok=True)
    (cache_of(tmp_path) / "en-fr.tgz").write_bytes(whole[: len(whole) * 2 // 3])  # left by version 0.1.0
    iwslt17.files["/en-fr.tgz"] = whole
    assert prepare(tmp_path / "a") == 0


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("FAIRSEQ_KD_CACHE", raising=False)
    ours = tmp_path / "home" / ".cache" / "fairseq_kd"
    assert download.download_files("c", "http://localhost", {}) == tmp_path / "xdg" / "fairseq_kd" / "c"
    (ours / "c").mkdir(parents=True)  # where 0.1.0 kept it in spite of XDG_CACHE_HOME: it is not fetched again
    assert download.download_files("c", "http://localhost", {}) == ours / "c"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert download.download_files("d", "http://localhost", {}) == ours / "d"
    monkeypatch.setenv("FAIRSEQ_KD_CACHE", str(tmp_path / "own"))
    assert download.download_files("c", "http://localhost", {}) == tmp_path / "own" / "c"


def prepare(out):
    return main(["prepare", "iwslt17.en-fr", "--out", str(out), "--vocab-size", "70"])


def test_an_archive_is_downloaded_once_and_its_hash_recorded(iwslt17, tmp_path, capsys):
    assert prepare(tmp_path / "a") == 0
    archive = tmp_path / "cache" / "iwslt17.en-fr" / "en-fr.tgz"
    digest, name = archive.with_name("en-fr.tgz.sha256").read_text().split()
    assert name == "en-fr.tgz" and len(digest) == 64
    assert sorted(path.name for path in archive.parent.iterdir()) == ["en-fr.tgz", "en-fr.tgz.sha256"]
    count = len(iwslt17.requests)
    assert prepare(tmp_path / "b") == 0 and len(iwslt17.requests) == count
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()
    archive.write_bytes(archive.read_bytes() + b"more")
    capsys.readouterr()
    assert prepare(tmp_path / "c") == 2
    assert "not the archive that was used first" in capsys.readouterr().err


def test_when_every_address_fails_each_is_named(iwslt17, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 2)
    del iwslt17.files["/en-fr.tgz"]
    assert prepare(tmp_path / "a") == 2
    error = capsys.readouterr().err
    assert "gave a file that is not an archive" in error and "404" in error and "--raw" in error
    assert not (tmp_path / "a").exists()
    assert list((tmp_path / "cache" / "iwslt17.en-fr").iterdir()) == []
