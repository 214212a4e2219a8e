"""Aligned text -> aligned text per part: OUT/part1.SOURCE, OUT/part1.TARGET, OUT/part2.SOURCE, ...

The folder also has parts/train.txt, differences.* and manifest.json, as the parts of a data-bin have.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.folders import finished, folder_in_progress
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, hash_files, library_versions
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.text import count_aligned, input_text, read_blocks, read_raw_lines
from fairseq_kd.partition.dividing import divide, settle, write_division
from fairseq_kd.partition.labels import TRAIN, parse_domains, read_domains
from fairseq_kd.partition.options import PartitionOptions
from fairseq_kd.partition.sentences import SIDES, read_text

KIND = "fairseq_kd partition of text"
FORMAT = 1
BLOCK = 4_096  # lines


def partition_text(
    prefix, out, options: PartitionOptions, languages: tuple[str, str], *, domains=(), plot: bool = True
) -> dict:
    """Write the folder `out` (see the module) and return its manifest. A finished `out` of the same request is kept.

    prefix: of PREFIX.SOURCE and PREFIX.TARGET, plain or compressed; the output is plain. Words are counted in the place
    of subwords. domains: values of --domains. Raises KDError for bad input; then no file remains under `out`.
    """
    options = settle(options, domains, plot)
    files = parse_domains(list(domains), [TRAIN])
    paths = {side: input_text(prefix, lang) for side, lang in zip(SIDES, languages, strict=True)}
    with Inputs() as inputs:
        inputs.watch(*paths.values(), *files.values())
        request = {
            "kind": KIND,
            "format": FORMAT,
            "languages": list(languages),
            **options.as_dict(),
            "domains": {subset: inputs.sha256(path) for subset, path in files.items()},
            "plot": plot,
            "input": {side: inputs.sha256(path) for side, path in paths.items()},
        }
        if (manifest := finished(Path(out), request)) is not None:
            return manifest
        total = count_aligned(paths)
        labels = read_domains(files, {TRAIN: total}, inputs)
        read = read_text({side: _lines(path) for side, path in paths.items()}, total)
        division = divide({TRAIN: read}, options, labels)
        with folder_in_progress(out, inputs) as folder:
            write_division(folder, division, f"{options.parts} parts by {options.by}", plot)
            for side, lang in zip(SIDES, languages, strict=True):
                _write_side(paths[side], folder, lang, division.parts[TRAIN], options.parts)
            sizes = np.bincount(division.parts[TRAIN], minlength=options.parts).tolist()
            manifest = request | {"sentences": sizes, "versions": library_versions(), "files": hash_files(folder)}
            write_record(folder / MANIFEST_NAME, manifest)
    return manifest


def _lines(path: Path):
    """The lines as text. Raises KDError for a line that is not UTF-8."""
    for block in read_blocks(path, BLOCK):
        yield from block.decode().split("\n")[:-1]


def _write_side(path: Path, folder: Path, lang: str, parts: np.ndarray, number: int) -> None:
    """Write each line to the file of its part, byte by byte as it was."""
    progress = Progress(f"dividing {path.name}", len(parts), "sentences")
    with ExitStack() as stack:
        files = [stack.enter_context(open(folder / f"part{part + 1}.{lang}", "wb")) for part in range(number)]
        for part, line in zip(parts.tolist(), read_raw_lines(path), strict=True):
            files[part].write(line + b"\n")
            progress.advance(1)
    progress.finish()
