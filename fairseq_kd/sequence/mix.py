"""Several data-bins -> one: the training sets follow one another, each repeated as often as --times says.

So a student learns from original and distilled targets together, and word-level distillation (`kd_word`, with its
teacher online or from a cache of the mixed data) combines with sequence-level distillation.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fairseq_kd.artifacts.derived import SideWriter, hashes, inherited, link_the_rest
from fairseq_kd.artifacts.folders import finished, folder_in_progress
from fairseq_kd.artifacts.hashes import data_files
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, MIXED, library_versions
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_new_data_bin
from fairseq_kd.core.progress import Progress
from fairseq_kd.inference.dictionaries import check_same_dictionary
from fairseq_kd.inference.opening import infer_languages, open_data

KIND = MIXED
FORMAT = 1


def mix(data_bins, times, out, *, languages=(None, None), seed: int | None = None) -> dict:
    """Write the data-bin `out` and return its manifest; a finished `out` of the same inputs is checked and kept.

    times: how often each training set is repeated, above 0; 2.5 means two copies and a random half, in order.
    seed: of the random shares (None: 1); it has an effect only if one of `times` has a fraction.
    languages: (source, target); (None, None): the languages of the first data-bin. Everything except the training set
    is linked from the first data-bin. Raises KDError for data-bins that do not fit together.
    """
    check_new_data_bin(out)
    if len(times) != len(data_bins):
        raise KDError(f"--times: {len(times)} numbers for {len(data_bins)} data-bins; give one for each")
    if wrong := [value for value in times if not 0 < value < float("inf")]:
        raise KDError(f"--times {wrong[0]:g}: must be above 0")
    seed = _checked_seed(seed, times)
    with Inputs() as inputs:
        for path in data_bins:
            inputs.watch_data_bin(path)
        return _mix(data_bins, times, Path(out), languages, seed, inputs)


def _mix(data_bins, times, out: Path, languages, seed: int, inputs: Inputs) -> dict:
    languages = languages if all(languages) else infer_languages(data_bins[0])
    tasks = [open_data(path, languages, "train") for path in data_bins]
    for path, task in zip(data_bins[1:], tasks[1:], strict=True):
        _check_dictionaries(data_bins[0], tasks[0], path, task)
    request = _describe(data_bins, times, languages, seed, inputs)
    if (manifest := finished(out, request)) is not None:
        return manifest
    with folder_in_progress(out, inputs) as folder:
        names = link_the_rest(data_bins[0], folder, "train", languages)
        counts, written = _write(folder, tasks, times, seed)
        manifest = request | {
            "pairs": sum(counts),
            "pairs_of_each": counts,
            **inherited(data_bins[0], "train"),
            "source_lang": languages[0],
            "target_lang": languages[1],
            "versions": library_versions(),
            "files": hashes(folder, names + written),
        }
        write_record(folder / MANIFEST_NAME, manifest)
    return manifest


def _checked_seed(seed: int | None, times) -> int:
    if seed is None:
        return 1
    if seed < 0:
        raise KDError(f"--seed {seed}: must be 0 or above")
    if all(value == int(value) for value in times):
        listed = " ".join(f"{value:g}" for value in times)
        raise KDError(
            f"--seed {seed} has no effect: every training set is repeated as a whole (--times {listed}), so nothing is "
            "drawn; leave it out"
        )
    return seed


def chosen(count: int, times: float, rng: np.random.Generator) -> Iterator[int]:
    """Sentence numbers below `count`, in order: whole copies, then a random share without repetition."""
    for _ in range(int(times)):
        yield from range(count)
    rest = round((times - int(times)) * count)
    yield from sorted(rng.choice(count, size=rest, replace=False).tolist())


def _write(folder: Path, tasks: list, times, seed: int) -> tuple[list[int], list[str]]:
    first = tasks[0]
    source_lang, target_lang = first.cfg.source_lang, first.cfg.target_lang
    prefix = f"train.{source_lang}-{target_lang}"
    sizes = [len(task.dataset("train")) for task in tasks]
    progress = Progress("mixing", round(sum(np.multiply(times, sizes))), "pairs")
    counts = Counter()
    with (
        SideWriter(folder, f"{prefix}.{source_lang}", first.source_dictionary) as source,
        SideWriter(folder, f"{prefix}.{target_lang}", first.target_dictionary) as target,
    ):
        for index, (task, often) in enumerate(zip(tasks, times, strict=True)):
            dataset = task.dataset("train")
            for number in chosen(len(dataset), often, np.random.default_rng([seed, index])):
                source.add(dataset.src[number])
                target.add(dataset.tgt[number])
                counts[index] += 1
                progress.advance(1)
        progress.finish()
        return [counts[index] for index in range(len(tasks))], source.close() + target.close()


def _check_dictionaries(first_path, first, path, task) -> None:
    pairs = (first.source_dictionary, task.source_dictionary), (first.target_dictionary, task.target_dictionary)
    for side, (ours, theirs) in zip(("source", "target"), pairs, strict=True):
        check_same_dictionary(ours, theirs, side, (str(first_path), str(path)))


def _describe(data_bins, times, languages, seed, inputs: Inputs) -> dict:
    inputs = {
        str(index): {"times": often, "data": inputs.hashes(path, data_files(path, "train", *languages))}
        for index, (path, often) in enumerate(zip(data_bins, times, strict=True))
    }
    return {"kind": KIND, "format": FORMAT, "inputs": inputs, "seed": seed, "languages": list(languages)}
