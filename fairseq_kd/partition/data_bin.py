"""A data-bin -> one data-bin per part, which differ from it in their training sets.

OUT/part1, part2, ...    data-bins; dictionaries, subword model and undivided subsets are links to the original's
OUT/parts/SUBSET.txt     the part of each sentence of the original, from 1
OUT/differences.*        how different the parts are: JSON, Markdown, SVG
OUT/manifest.json        the request and the sha256 of all files
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.data_bin import subsets_of
from fairseq_kd.artifacts.derived import SideWriter, hashes, inherited, link_the_rest
from fairseq_kd.artifacts.folders import finished, folder_in_progress
from fairseq_kd.artifacts.hashes import data_files
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, hash_files, library_versions, read_manifest, read_prepared
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_data_bin, check_new_data_bin
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.binarise import count_unknown
from fairseq_kd.corpus.subword import KINDS, not_adopted, subword_decoder
from fairseq_kd.corpus.text import check_aligned, read_raw_lines
from fairseq_kd.inference.opening import infer_languages, open_data
from fairseq_kd.partition.dividing import Division, divide, settle, write_division
from fairseq_kd.partition.labels import TRAIN, parse_domains, read_domains
from fairseq_kd.partition.options import PartitionOptions
from fairseq_kd.partition.rules import RULES
from fairseq_kd.partition.sentences import SIDES, DataBinReader

KIND = "fairseq_kd partition"
KIND_OF_PART = "fairseq_kd part of a data-bin"
FORMAT = 1


def partition_data_bin(
    data_bin,
    out,
    options: PartitionOptions,
    *,
    split=(),
    domains=(),
    languages: tuple[str, str] | None = None,
    post_process: str | None = None,
    plot: bool = True,
) -> dict:
    """Write the folder `out` (see the module) and return its manifest. A finished `out` of the same request is kept.

    split: further subsets that are divided; the others are whole in each part. domains: values of --domains.
    languages: (source, target); None: those of the data-bin. post_process: how subwords make words, for a data-bin made
    by fairseq-preprocess. Raises KDError for bad input; then no file remains under `out`.
    """
    check_new_data_bin(out)
    check_data_bin(data_bin, "DATA_BIN")
    options = settle(options, domains, plot)
    with Inputs() as inputs:
        inputs.watch_data_bin(data_bin)
        languages = languages or infer_languages(data_bin)
        names = subsets_of(data_bin, languages)
        for subset in split:
            if subset not in names or subset == TRAIN:
                others = ", ".join(names[1:]) or "no others"
                raise KDError(f"--split {subset}: must be a subset beside {TRAIN}; {data_bin} has {others}")
        files = parse_domains(list(domains), names)
        if missing := [name for name in [TRAIN, *split] if domains and name not in files]:
            raise KDError(
                f"--domains {missing[0]}=FILE is needed: {missing[0]} is divided by the labels of its sentences"
            )
        source = Source(Path(data_bin), languages, names, tuple(dict.fromkeys(split)), post_process)
        return _partition(source, Path(out), options, files, plot, inputs)


@dataclass(frozen=True)
class Source:
    """The data-bin that is divided. subsets: all, "train" first. split: those that are divided beside "train"."""

    data_bin: Path
    languages: tuple[str, str]
    subsets: list[str]
    split: tuple[str, ...]
    post_process: str | None

    def files(self) -> list[str]:
        """The names of the files that decide about the parts."""
        found = [name for subset in self.subsets for name in data_files(self.data_bin, subset, *self.languages)]
        found += [f"dict.{lang}.txt" for lang in dict.fromkeys(self.languages)]
        return found + sorted(f"subword/{path.name}" for path in (self.data_bin / "subword").glob("*"))


def _partition(source: Source, out: Path, options: PartitionOptions, files: dict, plot: bool, inputs: Inputs) -> dict:
    decoders = _decoders(source, options)
    inputs.watch(*files.values())
    request = {
        "kind": KIND,
        "format": FORMAT,
        "languages": list(source.languages),
        **options.as_dict(),
        "split": list(source.split),
        "domains": {subset: inputs.sha256(path) for subset, path in files.items()},
        "post_process": source.post_process,
        "plot": plot,
        "input": inputs.hashes(source.data_bin, source.files()),
    }
    if (manifest := finished(out, request)) is not None:
        return manifest
    tasks = {
        subset: open_data(source.data_bin, source.languages, subset, needs_target=subset in (TRAIN, *source.split))
        for subset in source.subsets
    }
    datasets = {subset: task.dataset(subset) for subset, task in tasks.items()}
    labels = read_domains(files, {subset: len(dataset) for subset, dataset in datasets.items()}, inputs)
    dictionaries = dict(zip(SIDES, (tasks[TRAIN].source_dictionary, tasks[TRAIN].target_dictionary), strict=True))
    reader = DataBinReader(dictionaries, decoders)
    read = {subset: reader.read(subset, dataset, subset == TRAIN) for subset, dataset in datasets.items()}
    division = divide(read, options, labels)
    _check_split(division, source.split)
    with folder_in_progress(out, inputs) as folder:
        write_division(folder, division, f"{options.parts} parts by {options.by}", plot)
        progress = Progress("dividing", sum(len(datasets[name]) for name in (TRAIN, *source.split)), "sentences")
        for part in range(options.parts):
            _write_part(source, folder / f"part{part + 1}", division, part, datasets, dictionaries, request, progress)
        progress.finish()
        manifest = request | {
            "sentences": np.bincount(division.parts[TRAIN], minlength=options.parts).tolist(),
            "source_lang": source.languages[0],
            "target_lang": source.languages[1],
            "versions": library_versions(),
            "files": hash_files(folder),
        }
        write_record(folder / MANIFEST_NAME, manifest)
    return manifest


def _decoders(source: Source, options: PartitionOptions) -> dict | None:
    """Side -> function from subwords to text; None where nobody knows it and the rule does not need it."""
    if read_prepared(source.data_bin) is None and source.post_process is None:
        if RULES[options.by].needs_words:
            raise not_adopted(source.data_bin, f"give --post-process {'|'.join(KINDS)}")
        return None
    return {
        side: subword_decoder(source.data_bin, lang, source.post_process)[1]
        for side, lang in zip(SIDES, source.languages, strict=True)
    }


def _check_split(division: Division, split) -> None:
    for subset in split:
        sizes = np.bincount(division.parts[subset], minlength=division.number)
        if not sizes.all():
            raise KDError(
                f"--split {subset}: part {int(np.argmin(sizes)) + 1} gets none of its {sizes.sum():,} sentences, and "
                f"training needs a {subset} set in each part: leave --split {subset} out, so that each part has all of "
                "it"
            )


def _write_part(source: Source, folder: Path, division: Division, part: int, datasets, dictionaries, request, progress):
    """Write one data-bin with its manifest."""
    folder.mkdir()
    pair = source.languages
    names = set(link_the_rest(source.data_bin, folder, TRAIN, pair))
    counts = {}
    for subset in (TRAIN, *source.split):
        for name in data_files(folder, subset, *pair):  # links to the whole subset
            (folder / name).unlink()
            names.discard(name)
        members = division.members(subset, part)
        counts[subset] = len(members)
        names.update(_write_subset(folder, subset, pair, members, datasets[subset], dictionaries, progress))
        names.update(_write_raw(source.data_bin, folder, subset, pair, members, len(datasets[subset])))
    manifest = {
        "kind": KIND_OF_PART,
        "format": FORMAT,
        "part": part + 1,
        "partition": request,
        "pairs": counts[TRAIN],
        **_inherited(source, folder, part, counts),
        "source_lang": pair[0],
        "target_lang": pair[1],
        "versions": library_versions(),
        "files": hashes(folder, names),
    }
    write_record(folder / MANIFEST_NAME, manifest)


def _write_subset(folder: Path, subset: str, pair, members, dataset, dictionaries, progress: Progress) -> list[str]:
    prefix = f"{subset}.{pair[0]}-{pair[1]}"
    with (
        SideWriter(folder, f"{prefix}.{pair[0]}", dictionaries["source"]) as source,
        SideWriter(folder, f"{prefix}.{pair[1]}", dictionaries["target"]) as target,
    ):
        for number in members.tolist():
            source.add(dataset.src[number])
            target.add(dataset.tgt[number])
            progress.advance(1)
        return source.close() + target.close()


def _write_raw(data_bin: Path, folder: Path, subset: str, pair, members: np.ndarray, total: int) -> list[str]:
    """Write the lines of the part, where the original has the plain text of the subset; return the names."""
    written = []
    for lang in pair:
        name = f"raw/{subset}.{lang}"
        if not (data_bin / name).is_file():
            continue
        check_aligned(data_bin / name, total, "cannot be divided in the same way")
        (folder / "raw").mkdir(exist_ok=True)
        (folder / name).unlink(missing_ok=True)  # a link to the whole text, which must stay as it is
        chosen = set(members.tolist())
        with open(folder / name, "wb") as file:
            file.writelines(line + b"\n" for n, line in enumerate(read_raw_lines(data_bin / name)) if n in chosen)
        written.append(name)
    return written


def _inherited(source: Source, folder: Path, part: int, counts: dict[str, int]) -> dict:
    """The entries of the original manifest that stay true, with the counts of the divided subsets."""
    kept = inherited(source.data_bin, TRAIN)
    if "subsets" not in kept:
        return kept
    original = read_manifest(source.data_bin)["subsets"]
    for subset, pairs in counts.items():
        name = original.get(subset, {}).get("corpus_name", subset)
        kept["subsets"][subset] = {
            "corpus_name": f"{name}, part {part + 1}",
            "pairs": pairs,
            "unknown_tokens": count_unknown(folder, subset, *source.languages),
        }
    return kept
