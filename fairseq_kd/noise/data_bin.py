"""Noise in one subset of a data-bin: DATA_BIN -> a data-bin that differs only in that subset."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.data_bin import load_side
from fairseq_kd.artifacts.derived import SideWriter, hashes, inherited, link, link_the_rest, take_side
from fairseq_kd.artifacts.folders import finished, folder_in_progress
from fairseq_kd.artifacts.hashes import data_files, files_of_side
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, library_versions, read_manifest, read_prepared
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_new_data_bin
from fairseq_kd.core.progress import Progress
from fairseq_kd.corpus.binarise import ORIGIN, count_unknown
from fairseq_kd.corpus.subword import KINDS, load_subword_models, not_adopted
from fairseq_kd.corpus.text import check_aligned, read_raw_lines, write_lines
from fairseq_kd.inference.opening import infer_languages, open_data
from fairseq_kd.noise.operations import BLOCK_LINES, NoiseOptions
from fairseq_kd.noise.side import SIDES, NoisySide
from fairseq_kd.noise.token_level import TokenLevel, needs_model

KIND = "fairseq_kd noisy data-bin"
FORMAT = 1


def noise_data_bin(
    data_bin,
    out,
    options: NoiseOptions,
    *,
    sides,
    seed: int,
    subset: str = "train",
    workers: int = 1,
    languages: dict[str, str] | None = None,
    post_process: str | None = None,
) -> dict:
    """Write the data-bin `out` and return its manifest. A finished `out` from the same input and options is kept.

    sides: which of SIDES get noise. languages: {"source": "de", "target": "en"}; None: the languages of the data-bin.
    post_process: how subwords are joined to words, for a data-bin made by fairseq-preprocess.
    Raises KDError for bad input; then no file remains under `out`.
    """
    check_new_data_bin(out)
    with Inputs() as inputs:
        inputs.watch_data_bin(data_bin)
        return _noise(data_bin, Path(out), options, sides, seed, subset, workers, languages, post_process, inputs)


def _noise(data_bin, out: Path, options, sides, seed, subset, workers, languages, post_process, inputs: Inputs) -> dict:
    languages = languages or dict(zip(SIDES, infer_languages(data_bin), strict=True))
    pair = (languages["source"], languages["target"])
    task = open_data(data_bin, pair, subset)
    options = _with_reserved(data_bin, options)
    levels = _levels(data_bin, task, options, languages, sides, post_process)
    noisy = {side: NoisySide(levels[side], seed, side, workers) for side in sides}
    names = data_files(data_bin, subset, *pair)
    request = {
        "kind": KIND,
        "format": FORMAT,
        "block_lines": BLOCK_LINES,
        "languages": languages,
        "sides": list(sides),
        "subset": subset,
        "options": options.as_dict(),
        "seed": seed,
        "post_process": post_process,
        "input": inputs.hashes(data_bin, names),
    }
    if (manifest := finished(out, request)) is not None:
        return manifest
    with folder_in_progress(out, inputs) as folder:
        written = link_the_rest(data_bin, folder, subset, pair)
        for side in SIDES:
            if side in noisy:
                written += _write_noisy(data_bin, folder, names, languages[side], noisy[side])
            else:
                dictionary = task.source_dictionary if side == "source" else task.target_dictionary
                written += _take_clean(data_bin, folder, names, languages[side], dictionary)
        manifest = request | {
            "sentences": len(task.dataset(subset)),
            "noise": {languages[side]: noisy[side].report() for side in sides},
            **_inherited(data_bin, folder, subset, pair),
            "source_lang": pair[0],
            "target_lang": pair[1],
            "versions": library_versions(),
            "files": hashes(folder, written),
        }
        write_record(folder / MANIFEST_NAME, manifest)
    return manifest


def _with_reserved(data_bin, options: NoiseOptions) -> NoiseOptions:
    """The options, with the reserved tokens of the data-bin among the protected words."""
    reserved = (read_manifest(data_bin) or {}).get("reserved", ())
    return replace(options, protect=(*options.protect, *reserved)) if reserved else options


def _levels(data_bin, task, options, languages, sides, post_process) -> dict[str, TokenLevel]:
    from fairseq.data.indexed_dataset import best_fitting_int_dtype

    prepared = read_prepared(data_bin)
    if prepared is not None and post_process is not None:
        raise KDError(f"{data_bin} has its own subword model; --post-process is for data-bins of fairseq-preprocess")
    if post_process is not None and options.level == "subword":
        raise KDError("--post-process has no effect with --level subword")
    kind = post_process if prepared is None else prepared["subword"]["kind"]
    if prepared is None and needs_model(options):
        raise not_adopted(data_bin, "give a --level and a --word-tokenizer that need no model")
    if kind is None and options.level != "subword":
        raise not_adopted(data_bin, f"give --post-process {'|'.join(KINDS)}, or --level subword")
    models = load_subword_models(data_bin, *languages.values()) if prepared and needs_model(options) else {}
    dictionaries = {"source": task.source_dictionary, "target": task.target_dictionary}
    return {
        side: TokenLevel(
            options,
            dictionaries[side],
            best_fitting_int_dtype(len(dictionaries[side])),
            kind,
            models.get(languages[side]),
        )
        for side in sides
    }


def _inherited(data_bin, folder: Path, subset: str, pair: tuple[str, str]) -> dict:
    """The entries of the original manifest that stay true; only the number of unknown tokens of the subset is new."""
    kept = inherited(data_bin, subset)
    if "subsets" in kept:
        entry = read_manifest(data_bin)["subsets"].get(subset, {})
        kept["subsets"][subset] = entry | {"unknown_tokens": count_unknown(folder, subset, *pair)}
    return kept


def _take_clean(data_bin, folder: Path, names: list[str], lang: str, dictionary) -> list[str]:
    sides = [name.removesuffix(".bin") for name in files_of_side(names, lang) if name.endswith(".bin")]
    raw = _raw(data_bin, names, lang)
    for name in raw:
        link(Path(data_bin) / name, folder / name)
    return [name for side in sides for name in take_side(data_bin, side, folder, dictionary)] + raw


def _raw(data_bin, names: list[str], lang: str) -> list[str]:
    """The name of the plain text of the subset, if the data-bin holds it."""
    name = f"raw/{names[0].split('.')[0]}.{lang}"
    return [name] if (Path(data_bin) / name).is_file() else []


def _write_noisy(data_bin, folder: Path, names: list[str], lang: str, noisy: NoisySide) -> list[str]:
    """Write all files of a side (train, train1, ...) with noise, and their plain text if the data-bin holds it."""
    level = noisy.level
    prefixes = [name.removesuffix(".bin") for name in files_of_side(names, lang) if name.endswith(".bin")]
    datasets = [load_side(Path(data_bin) / prefix, level.dictionary) for prefix in prefixes]
    if level.options.substitute:
        noisy.count(itertools.chain.from_iterable(_blocks(dataset, level) for dataset in datasets), prefixes[0])
    progress = Progress(f"noise in {prefixes[0]}", sum(map(len, datasets)), "sentences")
    raw = _raw(data_bin, names, lang)
    for name in raw:
        check_aligned(Path(data_bin) / name, sum(map(len, datasets)), "cannot get the same noise")
    old_text = read_raw_lines(Path(data_bin) / raw[0]) if raw else None
    written, text = [], []
    for prefix, dataset in zip(prefixes, datasets, strict=True):
        with SideWriter(folder, prefix, level.dictionary) as writer:
            for _, noised in noisy.noise(_blocks(dataset, level)):
                block = noised.data.tobytes()
                for ids in level.sentences(block):
                    writer.add(ids.astype(np.int64))
                if raw:
                    old_lines = itertools.islice(old_text, noised.counts.lines)
                    lines = zip(old_lines, level.lines(block), noised.changed, strict=True)
                    text += [new if changed else old.decode() for old, new, changed in lines]
                progress.advance(noised.counts.lines)
            written += writer.close()
    progress.finish()
    if raw:
        (folder / "raw").mkdir(exist_ok=True)
        write_lines(folder / raw[0], text)
    return written + raw


def _blocks(dataset, level: TokenLevel) -> Iterator[bytes]:
    """Yield the ids of BLOCK_LINES sentences at a time. Raises KDError unless EOS ends each and occurs nowhere else."""
    eos = level.dictionary.eos()
    for start in range(0, len(dataset), BLOCK_LINES):
        sentences = [dataset[i].numpy() for i in range(start, min(start + BLOCK_LINES, len(dataset)))]
        ids = np.concatenate(sentences)
        ends = np.cumsum([len(sentence) for sentence in sentences]) - 1
        if not np.array_equal(found := np.flatnonzero(ids == eos), ends):
            _refuse_ends(start + 1, found, ends)
        yield ids.astype(level.dtype).tobytes()


def _refuse_ends(first: int, found: np.ndarray, ends: np.ndarray) -> None:
    """Raise KDError. first: number of the first sentence, from 1. found, ends: where EOS is, and where it must be."""
    inside = np.setdiff1d(found, ends)
    if len(inside) == 0:
        number = first + int(np.flatnonzero(~np.isin(ends, found))[0])
        raise KDError(f"sentence {number:,} lacks the end-of-sentence symbol at its end; binarise the text again")
    number = first + int(np.searchsorted(ends, inside[0]))
    raise KDError(
        f"sentence {number:,} has the end-of-sentence symbol in its middle, so its words are unknown. "
        f"{ORIGIN.format(word='</s>')}"
    )
