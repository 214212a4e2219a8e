"""Compare a complete cache with the teacher, on a random sample of its sentences."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.cache.options import CachingOptions
from fairseq_kd.cache.reader import CacheReader
from fairseq_kd.cache.tail_shapes import affinity
from fairseq_kd.cache.teacher_rows import TeacherRows
from fairseq_kd.cache.teachers import check_teachers, describe_teachers, load_teachers, weighting_of
from fairseq_kd.cache.values import LARGEST_DELTA
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_one_folder, listed
from fairseq_kd.core.progress import Progress
from fairseq_kd.loss.mixture import gold_lprobs
from fairseq_kd.loss.rows import bucket, temper
from fairseq_kd.loss.signal import ROWS_AT_A_TIME, DenseSignal, TopKSignal
from fairseq_kd.teacher.cached import CachedSignalSource

# Rounding of the stored values changes a probability by at most p·δ·2^-11, and the norm by p·H·2^-11 with H <= ln k:
# below 0.002. A float32 teacher gives the same values in another batch up to 1e-5. In half precision its logits, of
# about 30, change by 2^-11 (float16) or 2^-8 (bfloat16) of their size, and a probability by a quarter of that change.
# This holds for the stored value and for the value that is computed again.
TOLERANCE = {"compact": 0.01, "float32": 0.001}
TOLERANCE_OF_HALF = {"float32": 0.0, "float16": 0.03, "bfloat16": 0.15}


@dataclass(frozen=True)
class Deviation:
    """Largest and mean deviation in probability over the sampled tokens, and the place of the largest.

    A token whose stored tail shape is not the best one deviates by the difference of the two affinities
    (`cache.tail_shapes`). A token with another stored ln p(gold) deviates by a quarter of the difference: a change d of
    a logit changes a probability by at most d / 4.
    """

    sentences: int
    tokens: int
    largest: float
    mean: float
    sentence: int
    temperature: float
    tolerance: float


def verify_cache(
    folder, *, teacher=None, data_bin=None, sample=100, seed=1, cpu=False, teacher_data=None, trust=None
) -> Deviation:
    """Check the files of a cache, and run the teacher again on `sample` sentences drawn by `seed`.

    teacher: a path, or several joined by ":". teacher, data_bin: None for the paths in the manifest.
    trust: the path of a teacher that may contain code.
    Raises KDError when a file was changed, when the cache was made from another teacher or from other data, and when
    the cache deviates from the teacher by more than rounding explains.
    """
    manifest = CacheReader(folder, check_hashes=False).manifest
    if sample < 1:
        raise KDError(f"--sample {sample}: must be at least 1")
    if data_bin is not None:
        check_one_folder(data_bin, "--data-bin")
    paths = listed(teacher or manifest["teacher"]["path"])
    paths = [_existing(path, "--teacher FILE", Path.is_file) for path in paths]
    data_bin = _existing(data_bin or manifest["data_bin"], "--data-bin FOLDER", Path.is_dir)
    options = CachingOptions(
        subset=manifest["subset"],
        teacher_dtype=manifest["teacher"]["dtype"],
        max_tokens=manifest["max_tokens"],
        cpu=cpu,
    )
    check_teachers(folder, manifest, paths)
    described = describe_teachers(paths, weighting_of(manifest), Inputs())
    loaded, task = load_teachers(
        data_bin,
        described,
        options,
        data=teacher_data,
        trust=trust,
        signals_only=manifest["teacher"].get("rounded") == "products",
        student_task=manifest.get("student_task"),
        lang_pair=f"{manifest['source_lang']}-{manifest['target_lang']}",
    )
    temperatures = manifest["temperatures"]
    source = CachedSignalSource(folder, task, temperature=temperatures[0], subset=manifest["subset"])
    compute = TeacherRows(loaded, task, source.reader.format, options)
    chosen = np.random.default_rng(seed).choice(len(source.reader), min(sample, len(source.reader)), replace=False)
    found = _compare(source, compute, np.sort(chosen), _tolerance(manifest))
    if not found.largest <= found.tolerance:
        raise KDError(
            f"teacher cache {folder} deviates from {os.pathsep.join(paths)} by {found.largest:.4f} in probability "
            f"(sentence {found.sentence}, temperature {found.temperature:g}); rounding explains at most "
            f"{found.tolerance:g}. The teacher as it runs now did not make it: remove the cache, and make it again "
            "with fairseq-kd cache"
        )
    return found


def _existing(path, remedy: str, exists) -> str:
    if not exists(Path(path)):
        raise KDError(f"{path} (from the manifest or the command line) does not exist: give its path with {remedy}")
    return str(path)


def _tolerance(manifest: dict) -> float:
    return TOLERANCE[manifest["store"]] + TOLERANCE_OF_HALF[manifest["teacher"]["dtype"]]


def _compare(source: CachedSignalSource, compute: TeacherRows, chosen: np.ndarray, tolerance: float) -> Deviation:
    total, count, tokens, worst = 0.0, 0, 0, (-1.0, -1, 0.0)
    root_shapes = None if source.reader.shapes is None else compute.root_shapes(source.reader.shapes)
    progress = Progress("verifying", len(chosen), "sentences")
    for sentences in compute.batches(chosen):
        sample, keep = compute.collate(sentences)
        rows_of = sample["id"].unsqueeze(1).expand_as(keep)[keep]  # (N,) sentence of each row
        dense = compute.teacher.signal(sample, keep)
        of_gold = _deviations_of_gold(source, sample, keep, dense)
        for temperature in compute.format.temperatures:
            cached = source.signal(sample, keep, temperature)
            deviation = torch.maximum(_deviations(cached, dense, temperature), of_gold)  # (N,)
            if root_shapes is not None:
                deviation = torch.maximum(deviation, _shortfalls(cached, dense, root_shapes))
            total, count = total + deviation.sum().item(), count + len(deviation)
            deviation = deviation.nan_to_num(nan=float("inf"))
            at = int(deviation.argmax())
            if deviation[at].item() > worst[0]:
                worst = (deviation[at].item(), int(rows_of[at]), temperature)
        tokens += len(dense)
        progress.advance(len(sentences))
    progress.finish()
    return Deviation(len(chosen), tokens, worst[0], total / count, worst[1], worst[2], tolerance)


def _deviations(cached: TopKSignal | DenseSignal, teacher: DenseSignal, temperature: float) -> torch.Tensor:
    """The largest difference in probability of each token, (N,), over the stored entries and the tail."""
    found = []
    for start in range(0, len(teacher), ROWS_AT_A_TIME):
        end = start + ROWS_AT_A_TIME
        lprobs = temper(teacher.rows(start, end), temperature)  # (n, V)
        if isinstance(cached, DenseSignal):
            stored = cached.rows(start, end)
        else:
            stored, lprobs = cached.part(start, end).buckets(), bucket(lprobs, cached.ids[start:end])  # (n, k + 1)
        found.append((stored.exp() - lprobs.exp()).abs().amax(dim=-1))
    return torch.cat(found)


def _deviations_of_gold(source: CachedSignalSource, sample, keep, teacher: DenseSignal) -> torch.Tensor:
    """A quarter of the difference in ln p(gold) of each token, (N,); 0 where the cache does not store it."""
    if not source.reader.format.gold:
        return torch.zeros(len(teacher), device=keep.device)
    _, stored = source.request_with_gold(sample, keep, source.reader.format.temperatures[0])()
    found = gold_lprobs(teacher, sample["target"][keep]).clamp(min=-LARGEST_DELTA)
    return (stored - found).abs() / 4


def _shortfalls(cached: TopKSignal, teacher: DenseSignal, root_shapes: torch.Tensor) -> torch.Tensor:
    """The best affinity of each token minus the affinity of its stored tail shape, (N,); 1 for an unknown shape."""
    found = []
    for start in range(0, len(teacher), ROWS_AT_A_TIME):
        part = cached.part(start, start + ROWS_AT_A_TIME)
        affinities = affinity(teacher.rows(start, start + ROWS_AT_A_TIME), part.ids, root_shapes)  # (n, G)
        stored = affinities.gather(1, part.shape_ids.clamp(max=len(root_shapes) - 1).unsqueeze(1)).squeeze(1)
        known = part.shape_ids < len(root_shapes)
        found.append(torch.where(known, affinities.amax(dim=1) - stored, 1.0))
    return torch.cat(found)
