"""The plain text of a subset: references, source text, and the function that joins subwords to text."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, check_files, read_prepared
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_data_bin
from fairseq_kd.corpus.subword import KINDS, not_adopted, subword_decoder
from fairseq_kd.corpus.text import read_evaluation_text


@dataclass(frozen=True)
class Segments:
    """The references in order, and their origin for the result file.

    decode: joins the subwords of a line. source: the file of the source text; None without such a file, as in a
    data-bin of plain fairseq-preprocess, or one that was adopted without it.
    """

    references: list[str]
    decode: Callable[[str], str]
    source: Path | None
    origin: dict

    def sources(self, system) -> list[str]:
        """The source text. Without a file, the binarised sentences are decoded; unknown words are then <unk>."""
        dictionary, dataset = system.task.source_dictionary, system.dataset
        if self.source is not None:
            lines = _read_text(self.source)
            if len(lines) != len(dataset):
                raise KDError(
                    f"{self.source} has {len(lines):,} lines, the binary data next to it {len(dataset):,} sentences, "
                    "so they are not aligned; make the data-bin again"
                )
            return lines
        lines = (dictionary.string(dataset.src[n]) for n in range(len(dataset)))
        return [self.decode(line) for line in lines]


def read_segments(data_bin, subset: str, reference=None, post_process=None) -> Segments:
    """The segments of a subset.

    In a data-bin made by `fairseq-kd prepare`, or adopted, the files are compared with its manifest; for another
    data-bin, reference and post_process must be given. Raises KDError for missing or changed files, and for options
    that do not fit the data-bin.
    """
    check_data_bin(data_bin, "DATA_BIN")
    manifest = read_prepared(data_bin)
    if manifest is not None and subset not in manifest["subsets"]:
        raise KDError(f"{data_bin} has no subset {subset!r}; it has {', '.join(manifest['subsets'])} (--subset)")
    _check_reference_options(data_bin, subset, manifest, reference, post_process)
    source, corpus_name = None, subset
    if manifest is not None:
        check_files(data_bin, _files_of(subset, manifest))
        source, kept = (_kept_text(data_bin, subset, manifest, side) for side in ("source", "target"))
        reference = kept or reference
        corpus_name = manifest["subsets"][subset].get("corpus_name", subset)
    # a data-bin without a manifest has no subword model, so no language is needed
    kind, decode = subword_decoder(data_bin, manifest and manifest["target_lang"], post_process)
    references = _read_text(reference)
    if not references:
        raise KDError(
            f"the reference {reference} is empty, so nothing can be scored: it must have one line per sentence"
        )
    origin = {
        "data_bin": str(data_bin),
        "manifest_sha256": sha256_file(Path(data_bin) / MANIFEST_NAME) if manifest else None,
        "subset": subset,
        "corpus_name": corpus_name,
        "reference": str(reference),
        "form": manifest.get("form", "cased") if manifest else None,
        "post_process": kind,
    }
    return Segments(references, decode, source, origin)


def text_hash(lines: list[str]) -> str:
    """The sha256 of a text with a newline after each line."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def _kept_text(data_bin, subset: str, manifest: dict, side: str) -> Path | None:
    """The file with the text of one side ("source", "target") of a subset; None if the manifest lists none."""
    name = f"raw/{subset}.{manifest[f'{side}_lang']}"
    return Path(data_bin) / name if name in manifest["files"] else None


def _check_reference_options(data_bin, subset: str, manifest, reference, post_process) -> None:
    if manifest is None:
        if reference is None or post_process is None:
            raise not_adopted(data_bin, f"give --reference FILE and --post-process {'|'.join(KINDS)}", subset)
        return
    kept = _kept_text(data_bin, subset, manifest, "target")
    if post_process is not None or (kept and reference is not None):
        raise KDError(
            f"{data_bin} has its own references and subword model; --reference and --post-process are for a data-bin "
            "made by fairseq-preprocess"
        )
    if kept is None and reference is None:
        raise KDError(
            f"{data_bin} keeps no references of {subset!r} (plain text is kept for evaluation subsets, not for train; "
            f"of an adopted data-bin, as --reference of `fairseq-kd adopt` was given): give --reference FILE"
        )


def _files_of(subset: str, manifest: dict) -> dict:
    """File name -> hash in the manifest, for the files on which a score depends."""
    wanted = (f"{subset}.", f"raw/{subset}.", "dict.", "subword/")
    return {name: value for name, value in manifest["files"].items() if name.startswith(wanted)}


def _read_text(path) -> list[str]:
    if not Path(path).is_file():
        raise KDError(f"the text {path} does not exist: give the text of the subset, one sentence per line")
    return read_evaluation_text(path)
