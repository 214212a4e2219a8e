"""What a subset of a data-bin is scored against: plain-text references, and how its hypotheses become plain text."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.corpus.manifest import MANIFEST_NAME, check_files, read_prepared, sha256_file
from fairseq_kd.corpus.subword import load_decoder
from fairseq_kd.corpus.text import normalise_spaces, read_raw_lines
from fairseq_kd.errors import KDError


@dataclass(frozen=True)
class References:
    """The references of a subset; `decode` joins the subwords of a hypothesis. The rest is for result files."""

    lines: list[str]
    decode: Callable[[str], str]
    path: str
    post_process: str
    corpus_name: str
    manifest_sha256: str | None


def open_references(data_bin, subset: str, reference=None, post_process=None) -> References:
    """The references of `subset`: those that the data-bin brings, or the given ones.

    reference, post_process: see `evaluate`. Raises KDError when they are missing, superfluous or changed.
    """
    if not Path(data_bin).is_dir():
        raise KDError(f"DATA_BIN {data_bin} is not a folder")
    manifest = read_prepared(data_bin)
    _check_reference_options(data_bin, manifest, reference, post_process)
    if manifest is not None:
        if subset not in manifest["subsets"]:
            raise KDError(f"{data_bin} has no subset {subset!r}; it has {', '.join(manifest['subsets'])} (--subset)")
        check_files(data_bin, _files_of(subset, manifest))
        reference = Path(data_bin) / "raw" / f"{subset}.{manifest['target_lang']}"
        post_process = manifest["subword"]["kind"]
    known = (manifest or {}).get("subsets", {}).get(subset, {})
    return References(
        decode=load_decoder(post_process),
        lines=_read_references(reference),
        path=str(reference),
        post_process=post_process,
        corpus_name=known.get("corpus_name", subset),
        manifest_sha256=sha256_file(Path(data_bin) / MANIFEST_NAME) if manifest else None,
    )


def _check_reference_options(data_bin, manifest, reference, post_process) -> None:
    if manifest is None and (reference is None or post_process is None):
        raise KDError(
            f"{data_bin} was not made by `fairseq-kd prepare`, so it brings neither plain-text references nor its "
            "subword model: give --reference FILE and --post-process sentencepiece|subword-nmt|none"
        )
    if manifest is not None and (reference is not None or post_process is not None):
        raise KDError(
            f"{data_bin} brings its own references and subword model; --reference and --post-process are for a "
            "data-bin made by fairseq-preprocess"
        )


def _files_of(subset: str, manifest: dict) -> dict:
    """The files that a score depends on, with the hashes of the manifest."""
    wanted = (f"{subset}.", f"raw/{subset}.", "dict.", "subword/")
    return {name: value for name, value in manifest["files"].items() if name.startswith(wanted)}


def _read_references(path) -> list[str]:
    if not Path(path).is_file():
        raise KDError(f"the reference {path} is not there (plain text is kept for evaluation subsets, not for train)")
    try:
        return [normalise_spaces(line.decode("utf-8")) for line in read_raw_lines(path)]
    except UnicodeDecodeError as error:
        raise KDError(f"the reference {path} is not UTF-8 ({error})") from error
