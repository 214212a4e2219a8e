"""Translate a file of lines to a file. A killed command continues after its last complete buffer of lines."""

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.blocks import Block, cut_blocks, work_through
from fairseq_kd.artifacts.hashes import dictionary_hash
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, library_versions
from fairseq_kd.artifacts.records import read_part, write_record
from fairseq_kd.artifacts.writing import file_in_progress
from fairseq_kd.corpus.text import count_lines, read_raw_lines
from fairseq_kd.evaluation.translate import Notices, decoded, written
from fairseq_kd.evaluation.translator import Translator

KIND = "fairseq_kd translation"
FORMAT = 1


@dataclass
class FileWork:
    """The work of `blocks.work_through` that translates a file: one part per `buffer` lines.

    how: the arguments of `Translator.translate`.
    """

    translator: Translator
    path: Path
    out: Path
    format: str
    how: dict
    notices: Notices
    buffer: int
    label: str = "translating"
    unit: str = "lines"

    def __post_init__(self):
        lines = count_lines(self.path)
        self.blocks: list[Block] = cut_blocks(np.ones(lines, np.int64), self.buffer) if lines else []
        self._lines, self._read = decoded(read_raw_lines(self.path), self.path), 0  # the blocks come in order

    def part(self, block: Block, advance) -> list[bytes]:
        """The lines of output of a block."""
        lines = itertools.islice(self._lines, block.start - self._read, block.end - self._read)
        self._read = block.end
        how = {"first_line": block.start + 1, "advance": advance} | self.how
        found = list(enumerate(self.translator.translate(list(lines), **how), block.start + 1))
        self.notices.about(found)
        return [written(number, one, self.format).encode() for number, one in found]

    def join(self, folder: Path, request: dict) -> dict:
        """Write the output, then the manifest of the folder of the parts."""
        with file_in_progress(self.out) as temporary, open(temporary, "wb") as file:
            file.writelines(read_part(block.path(folder)) for block in self.blocks)
        manifest = {**request, "lines": sum(block.size for block in self.blocks)}
        write_record(folder / MANIFEST_NAME, manifest)
        return manifest

    def check(self, folder: Path, manifest: dict) -> None:
        """Nothing: the output has been renamed to its name as a whole."""


def translate_file(work: FileWork, made_from: dict, inputs: Inputs) -> None:
    """Write the translations of a file to a file, whole or not at all.

    made_from: the model, its data and the options of opening, for the comparison with an interrupted run. inputs: the
    files that are read. The finished blocks are in the folder `.NAME.translation` beside the output, until it is
    written. Raises KDError as `blocks.work_through` does, and when the interrupted run was another one.
    """
    model = work.translator.model
    request = {
        "kind": KIND,
        "format": FORMAT,
        "input": inputs.sha256(work.path),
        **made_from,
        "dictionaries": [dictionary_hash(found) for found in (model.source_dictionary, model.target_dictionary)],
        "decoding": work.translator.options.as_dict(),
        "options": {**work.how, "form": work.format, "buffer": work.buffer},
        "device": str(work.translator.options.device()),
        "versions": library_versions(),
    }
    folder = work.out.with_name(f".{work.out.name}.translation")
    work_through(folder, request, work, inputs=inputs)
    shutil.rmtree(folder)
