"""Where the raw text of a corpus lies: subset -> pair of files, for the named corpora and for a folder of text.

Files of a named corpus, downloaded once into the cache folder. A download that was cut off is continued.
"""

import functools
import http.client
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts.locks import exclusive
from fairseq_kd.artifacts.manifest import sha256_file
from fairseq_kd.artifacts.writing import ensure_writable_folder, rename, write_json
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import cached
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.files import ENDINGS
from fairseq_kd.corpus.text import find_text, missing_text

TIMEOUT_SECONDS = 60
BLOCK = 1 << 20


def corpus_folder(name: str) -> Path:
    """Where the files of a corpus are kept: in the user's cache."""
    return cached(name, Path(os.environ.get("FAIRSEQ_KD_CACHE") or Path.home() / ".cache" / "fairseq_kd"))


def download_files(name: str, base_url: str, wanted: dict) -> Path:
    """Fetch `base_url/FILE` for each FILE of `wanted` (name -> sha256) that is not in the cache; return the folder.

    Raises KDError when the network or the hash fails; a file with another hash is not kept.
    """
    folder = corpus_folder(name)
    for file_name, expected in wanted.items():
        download(f"{base_url}/{file_name}", folder / file_name, functools.partial(_other_hash, expected))
    return folder


def _other_hash(expected: str, path: Path) -> str | None:
    if (found := sha256_file(path)) == expected:
        return None
    return (
        f"has sha256 {found[:16]}..., expected {expected[:16]}...; fetch the official files yourself and give their "
        "folder with --raw"
    )


def download(url: str, path: Path, fault: Callable[[Path], str | None]) -> None:
    """Have the file of `url` at `path`: all of it, or the rest of it, is fetched if it is not there.

    fault(file) -> what is wrong with it, None if it is the one that is wanted; a file at fault is not kept. The lock
    is held until the file has its name: of two processes one fetches and the other waits, and finds it.
    Raises KDError when the network fails, then the same call continues, and for a file at fault.
    """
    if path.is_file() and fault(path) is None:  # also in a folder that cannot be written to
        return
    ensure_writable_folder(path.parent)
    with exclusive(path, wait=True):
        if path.is_file() and fault(path) is None:
            return
        path.unlink(missing_ok=True)
        part = fetch(url, path)
        if (wrong := fault(part)) is not None:
            part.unlink()
            raise KDError(f"{url} {wrong}")
        rename(part, path)


def fetch(url: str, path: Path) -> Path:
    """Fetch all of `url` beside `path`, or the rest of it; return the whole file, under a temporary name still.

    The caller holds the lock of `path`. What an earlier, interrupted call fetched is kept if the server says that the
    file is the same (If-Range). Raises KDError when the network fails; then the same call continues.
    """
    part = path.with_name(f".{path.name}.part")
    print(f"downloading {url}", file=sys.stderr, flush=True)
    try:
        _fetch(url, part)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise KDError(
            f"cannot download {url} ({error}); the same command continues where this one ended. On a machine "
            "without network give a folder with the files by --raw"
        ) from error
    return part


def _fetch(url: str, part: Path) -> None:
    state = part.with_name(f"{part.name}.json")  # which version of which address the part is of
    request = urllib.request.Request(url)
    known = json.loads(state.read_text()) if state.is_file() and part.is_file() else {}
    if known.get("url") == url and known["version"]:
        request.add_header("Range", f"bytes={part.stat().st_size}-")
        request.add_header("If-Range", known["version"])
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{part.stat().st_size}":
            return  # it was whole already
        answer = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)
    with answer:
        done = part.stat().st_size if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        if not done:
            part.unlink(missing_ok=True)
            # a weak validator cannot vouch for bytes (RFC 9110, 13.1.5)
            tag = answer.headers.get("ETag", "")
            version = answer.headers.get("Last-Modified") if tag.startswith("W/") or not tag else tag
            write_json(state, {"url": url, "version": version})
        length = answer.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        _copy(answer, part, done, total)
    state.unlink()


def _copy(answer, part: Path, done: int, total: int | None) -> None:
    progress = Progress(part.name.removesuffix(".part")[1:], total, "bytes", done=done)
    with open(part, "ab") as file:
        while block := answer.read(BLOCK):
            file.write(block)
            progress.advance(len(block))
    progress.finish()
    if total is not None and progress.done != total:
        raise OSError(f"the connection ended after {progress.done:,} of {total:,} bytes")


MULTI30K_URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
MULTI30K_LANGUAGES = ("cs", "de", "en", "fr")
# sha256 of the compressed files, computed from the files themselves
MULTI30K_SHA256 = {
    "train.cs.gz": "a65adb8b32e3bc664f21ecba7a6e7f6950fd1f405e135f7c312faabdb6255077",
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.fr.gz": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.cs.gz": "b63226e05c4bd5dd6a42897d74b86a1b9d2c31498252c572b1ea7f7996927fcc",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.fr.gz": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    "test_2016_flickr.cs.gz": "200a4a74cc9560f051924abb9803be008d1908d77f747e9141aeb86dfd2797f1",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.fr.gz": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
}
MULTI30K_STEMS = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
VALID_STEMS = ("valid", "val", "dev")
ENDING = rf"(?:{'|'.join(map(re.escape, ENDINGS))})?$"  # of the name of a file, compressed or not


@dataclass(frozen=True)
class SubsetFiles:
    """The two aligned files of one subset, and the name the corpus itself gives it."""

    stem: str
    source: Path
    target: Path


def multi30k_files(source_lang: str, target_lang: str, raw=None) -> dict[str, SubsetFiles]:
    """Multi30k task 1: 29,000 training pairs, validation, test_2016_flickr, from a folder or downloaded.

    raw: folder with the official .gz files, or None to download them into the cache folder.
    Raises KDError for a language it does not have, and for files that are not the official ones (by sha256).
    """
    for lang in (source_lang, target_lang):
        if lang not in MULTI30K_LANGUAGES:
            raise KDError(
                f"multi30k has no language {lang!r}; it has {', '.join(MULTI30K_LANGUAGES)} "
                "(--source-lang, --target-lang)"
            )
    names = [f"{stem}.{lang}.gz" for stem in MULTI30K_STEMS.values() for lang in (source_lang, target_lang)]
    wanted = {name: MULTI30K_SHA256[name] for name in names}
    if raw is None:
        raw = download_files("multi30k", MULTI30K_URL, wanted)
    else:
        raw = existing_folder(raw)
        _check_official(raw, wanted)
    return {
        subset: SubsetFiles(stem, raw / f"{stem}.{source_lang}.gz", raw / f"{stem}.{target_lang}.gz")
        for subset, stem in MULTI30K_STEMS.items()
    }


def _check_official(raw: Path, wanted: dict) -> None:
    for name, expected in wanted.items():
        path = raw / name
        if not path.is_file():
            raise KDError(f"{path} is missing; --raw needs the official files {', '.join(wanted)}")
        if (found := sha256_file(path)) != expected:
            raise KDError(
                f"{path} has sha256 {found[:16]}..., the official file has {expected[:16]}...: results on it would not "
                "be results on Multi30k; fetch it again, or prepare your own edition by `fairseq-kd prepare text`"
            )


def text_files(raw, source_lang: str, target_lang: str, stems: dict | None = None) -> dict[str, SubsetFiles]:
    """A folder of aligned text, STEM.LANG, plain or compressed.

    stems: subset -> stem. None: `train`, the first of valid, val and dev, and every stem that starts with "test"
    in alphabetical order as test, test1, ...
    Raises KDError for a missing file, naming the languages that the folder has.
    """
    raw = existing_folder(raw)
    stems = stems or _guess_stems(raw, source_lang, target_lang)
    files = {}
    for subset, stem in stems.items():
        paths = {lang: find_text(raw, stem, lang) for lang in (source_lang, target_lang)}
        for lang, path in paths.items():
            if path is None:
                raise KDError(f"{missing_text(raw, stem, lang)}; languages found in {raw}: {_languages(raw) or 'none'}")
        files[subset] = SubsetFiles(stem, paths[source_lang], paths[target_lang])
    return files


def _guess_stems(raw: Path, source_lang: str, target_lang: str) -> dict:
    valid = next((s for s in VALID_STEMS if find_text(raw, s, source_lang)), VALID_STEMS[0])
    pattern = re.compile(rf"(test[^/]*?)\.(?:{re.escape(source_lang)}|{re.escape(target_lang)}){ENDING}")
    tests = sorted({m.group(1) for path in raw.iterdir() if (m := pattern.match(path.name))}) or ["test"]
    return {"train": "train", "valid": valid} | {f"test{i or ''}": stem for i, stem in enumerate(tests)}


def _languages(raw: Path) -> str:
    names = {re.sub(ENDING, "", path.name) for path in raw.iterdir() if path.is_file()}
    return ", ".join(sorted({name.rsplit(".", 1)[1] for name in names if "." in name}))


def existing_folder(folder) -> Path:
    """`folder` as a Path. Raises KDError when it is not a folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise KDError(f"--raw {folder} is not a folder")
    return folder
