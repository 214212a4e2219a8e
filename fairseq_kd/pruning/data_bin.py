"""The data-bin of a pruned vocabulary: the same sentences with other ids, and the smaller dictionaries."""

from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.data_bin import load_side, subsets_of
from fairseq_kd.artifacts.data_bin_check import listed_files, read_dictionary
from fairseq_kd.artifacts.derived import SideWriter, hashes, inherited, link
from fairseq_kd.artifacts.folders import folder_in_progress
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, check_files, library_versions, read_manifest
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.binarise import count_unknown
from fairseq_kd.pruning.chosen import Chosen, sides_of
from fairseq_kd.pruning.opening import Opened

SAME = ("raw/*", "subword/*")  # files that no id is in


def write_data_bin(opened: Opened, chosen: Chosen, data_bin, out, texts: dict, request: dict, inputs: Inputs) -> None:
    """Write the folder `out`: all subsets of the language pair. It is complete or absent.

    texts: language -> content of its small dictionary. request: what the manifest begins with.
    """
    data_bin, subsets = Path(data_bin), subsets_of(data_bin, opened.languages)
    with folder_in_progress(out, inputs) as folder:
        names = [f"dict.{lang}.txt" for lang in texts]
        for lang, text in texts.items():
            (folder / f"dict.{lang}.txt").write_text(text, encoding="utf-8")
        names += _link_the_same(data_bin, folder)
        sides = [side for subset in subsets for side in sides_of(data_bin, subset, opened.languages)]
        names += _write_sides(opened, chosen, data_bin, folder, sides)
        pair = _pair(opened.languages, sides)
        manifest = request | {
            "tokens": chosen.tokens,
            "become_unknown": chosen.unknown,
            **_inherited(data_bin, folder, pair),
            "source_lang": pair[0],
            "target_lang": pair[1],
            "versions": library_versions(),
            "files": hashes(folder, names),
        }
        write_record(folder / MANIFEST_NAME, manifest)


def _pair(languages, sides) -> tuple[str, str]:
    """The languages in the order of the file names: the checkpoint can translate in the other direction."""
    source, target = languages
    return (source, target) if f".{source}-{target}." in sides[0][0] else (target, source)


def _link_the_same(data_bin: Path, folder: Path) -> list[str]:
    names = [str(path.relative_to(data_bin)) for pattern in SAME for path in sorted(data_bin.glob(pattern))]
    listed = listed_files(data_bin)
    check_files(data_bin, {name: listed[name] for name in names if name in listed})
    for name in names:
        link(data_bin / name, folder / name)
    return names


def _write_sides(opened: Opened, chosen: Chosen, data_bin: Path, folder: Path, sides) -> list[str]:
    old = [read_dictionary(data_bin / f"dict.{lang}.txt") for lang in opened.languages]
    new = [read_dictionary(folder / f"dict.{lang}.txt") for lang in opened.languages]
    places = [chosen.new_ids(side, old[side].unk()) for side in (0, 1)]
    datasets = [(name, side, load_side(data_bin / name, old[side])) for name, side in sides]
    progress = Progress("new ids", sum(len(dataset) for *_, dataset in datasets), "sentences")
    names = []
    for name, side, dataset in datasets:
        with SideWriter(folder, name, new[side]) as writer:
            for number in range(len(dataset)):
                writer.add(places[side][np.asarray(dataset[number])])
                progress.advance(1)
            names += writer.close()
    progress.finish()
    return names


def _inherited(data_bin: Path, folder: Path, pair) -> dict:
    """The entries of the original manifest that stay true, with the new numbers of unknown tokens."""
    kept = inherited(data_bin, "")
    for subset, entry in (read_manifest(data_bin) or {}).get("subsets", {}).items():
        kept["subsets"][subset] = entry | {"unknown_tokens": count_unknown(folder, subset, *pair)}
    return kept
