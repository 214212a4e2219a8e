"""Noise in aligned text: PREFIX.SOURCE and PREFIX.TARGET -> OUT.SOURCE, OUT.TARGET and OUT.manifest.json.

The functions at the end add the same noise to sentences in memory, such as evaluation sets.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from fairseq_kd.artifacts.folders import files_finished, files_in_progress
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import library_versions
from fairseq_kd.artifacts.writing import naming_file
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.core.public import check_lines, errors_name_arguments
from fairseq_kd.corpus.subword import load_model_file
from fairseq_kd.corpus.text import count_aligned, input_text, read_blocks
from fairseq_kd.noise.operations import BLOCK_LINES, NoiseOptions
from fairseq_kd.noise.side import SIDES, NoisySide
from fairseq_kd.noise.text_level import TextLevel, check_subword, remedy_for_unsegmented

KIND = "fairseq_kd noisy text"
FORMAT = 1


def noise_text(
    prefix,
    out,
    languages: dict[str, str],
    options: NoiseOptions,
    *,
    sides,
    seed: int,
    workers: int = 1,
    subword_model=None,
) -> dict:
    """Write the two files with noise in `sides`, and the manifest; return the manifest.

    languages: {"source": "de", "target": "en"}. sides: which of SIDES get noise; the other side is copied. The input
    may be compressed, the output is plain text. subword_model: a file, for level subword.
    A finished `out` from the same input and options is checked and kept. Raises KDError for bad input; then no file
    remains under `out`.
    """
    paths = {side: input_text(prefix, languages[side]) for side in SIDES}
    check_subword(options, subword_model)
    with Inputs() as inputs:
        inputs.watch(*paths.values(), *([] if subword_model is None else [subword_model]))
        level = TextLevel(options, None if subword_model is None else load_model_file(subword_model))
        noisy = {side: NoisySide(level, seed, side, workers) for side in sides}
        lines = count_aligned(paths)
        request = {
            "kind": KIND,
            "format": FORMAT,
            "block_lines": BLOCK_LINES,
            "languages": languages,
            "sides": list(sides),
            "options": options.as_dict(),
            "seed": seed,
            "subword_model": None if subword_model is None else inputs.sha256(subword_model),
            "input": {side: inputs.sha256(path) for side, path in paths.items()},
        }
        return files_finished(Path(out), request) or _write(Path(out), request, paths, noisy, lines, inputs)


def _write(out: Path, request: dict, paths: dict, noisy: dict, lines: int, inputs: Inputs) -> dict:
    """Write both files and the manifest, which is returned."""
    languages = request["languages"]
    names = {side: f"{out.name}.{languages[side]}" for side in SIDES}
    with files_in_progress(out, request, list(names.values()), inputs) as (folder, manifest):
        for side in SIDES:
            blocks = _noisy_blocks(noisy[side], paths[side], lines) if side in noisy else _blocks(paths[side])
            with naming_file(out.parent / names[side]), open(folder / names[side], "wb") as file:
                file.writelines(blocks)
        manifest |= {
            "sentences": lines,
            "noise": {languages[side]: noisy[side].report() for side in noisy},
            "versions": library_versions(),
        }
    return manifest


def _blocks(path: Path) -> Iterator[bytes]:
    return read_blocks(path, BLOCK_LINES)


def _noisy_blocks(noisy: NoisySide, path: Path, lines: int) -> Iterator[memoryview]:
    if noisy.level.options.substitute:
        noisy.count(_blocks(path), str(path))
    progress = Progress(f"noise in {path.name}", lines, "sentences")
    for _, noised in noisy.noise(_blocks(path)):
        yield noised.data.data
        progress.advance(noised.counts.lines)
    progress.finish()


@errors_name_arguments()
def noise_lines(
    lines: Sequence[str],
    *,
    delete: float = 0.0,
    substitute: float = 0.0,
    swap: float = 0.0,
    swap_window: int = 1,
    substitute_from: str = "unigram",
    level: str = "word",
    sentence_share: float = 1.0,
    word_tokenizer: str = "spaces",
    protect: Sequence[str] = (),
    seed: int = 1,
    side: str = "source",
    subword_model=None,
    like: Sequence[str] | None = None,
) -> list[str]:
    """The lines with the noise that `fairseq-kd noise` adds to a file of these lines.

    delete, substitute, swap: shares of the words that meet this operation, 0 to 1; their sum is at most 1. swap_window
    to protect: see `NoiseOptions`. side: "source" or "target", which have different noise for the same seed.
    subword_model: a file, for level "subword". like: lines from whose words substitutes are drawn; None: from `lines`.
    Raises KDError for values out of range, for arguments without an effect, and as `noise_and_count` does.
    """
    check_lines("lines", lines)
    options = NoiseOptions(
        delete, substitute, swap, swap_window, substitute_from, level, sentence_share, word_tokenizer, tuple(protect)
    )
    check_subword(options, subword_model)
    model = None if subword_model is None else load_model_file(subword_model)
    with remedy_for_unsegmented():
        return noise_and_count(lines, options, seed, side=side, subword=model, like=like)[0]


def noise_and_count(
    lines: Sequence[str], options: NoiseOptions, seed: int, *, side: str = "source", subword=None, like=None
) -> tuple[list[str], dict]:
    """(the lines with noise, the counts and rates of `NoisySide.report`).

    subword: a model of `corpus.subword`, for level subword. like: lines from whose units substitutes are drawn
    (default: the lines themselves). Raises KDError for a negative seed, for a line that holds a newline, and when there
    are fewer than two different units to draw substitutes from.
    """
    if any("\n" in line for line in lines):
        raise KDError("a sentence holds a newline: each sentence must be one line")
    noisy = NoisySide(TextLevel(options, subword), seed, side)
    if options.substitute:
        noisy.count(_blocks_of_lines(lines if like is None else like), "the text")
    found = [
        line
        for _, noised in noisy.noise(_blocks_of_lines(lines))
        for line in noised.data.tobytes().decode().split("\n")[:-1]
    ]
    return found, noisy.report()


def _blocks_of_lines(lines: Sequence[str]) -> Iterator[bytes]:
    for at in range(0, len(lines), BLOCK_LINES):
        yield "".join([line + "\n" for line in lines[at : at + BLOCK_LINES]]).encode()
