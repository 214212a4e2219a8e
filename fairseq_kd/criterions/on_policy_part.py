"""`--on-policy-part`: training data of `fairseq-kd mix`, in which one of the mixed data-bins has the student's samples.

The student has decoded them before the training (`fairseq-kd decode` with the student as --teacher). The teacher
answers them online or from a cache of the mixed data. The loss of a sample is that of `on_policy`: the teacher's term
without cross-entropy.
"""

import torch

from fairseq_kd.artifacts.manifest import MIXED, read_manifest
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_one_folder
from fairseq_kd.criterions.on_policy import MixedBatch


class SampledPart:
    """The sentences of a training set whose targets are samples: their numbers are from `start` to before `end`."""

    def __init__(self, start: int, end: int):
        self.start, self.end = start, end

    def batch(self, sample: dict) -> MixedBatch | None:
        """The batch, which is not changed, with a mark on its samples; None if no target is a sample."""
        is_sampled = (sample["id"] >= self.start) & (sample["id"] < self.end)  # (B,)
        return MixedBatch(sample, is_sampled) if bool(torch.any(is_sampled)) else None


def sampled_part(cfg, task) -> SampledPart | None:
    """The part that --on-policy-part names; None for 0, and for kd_hybrid, which has no such option.

    The manifest of the training data says which sentences come from which data-bin. Raises KDError for data that were
    not made by `fairseq-kd mix`, and for a number that no mixed data-bin has.
    """
    if (number := getattr(cfg, "on_policy_part", 0)) == 0:
        return None
    folder = task.cfg.data
    check_one_folder(folder, "--on-policy-part with the data")
    manifest = read_manifest(folder) or {}
    if manifest.get("kind") != MIXED:
        raise KDError(
            f"--on-policy-part {number}: {folder} was not made by fairseq-kd mix (the manifest says "
            f"{manifest.get('kind')!r}), so nothing shows which targets the student has made: give the data-bin of "
            "fairseq-kd mix GOLD DECODED"
        )
    pairs = manifest["pairs_of_each"]
    if number > len(pairs):
        raise KDError(
            f"--on-policy-part {number}: {folder} was mixed from {len(pairs)} data-bins; give a number from 1 to "
            f"{len(pairs)}"
        )
    return SampledPart(sum(pairs[: number - 1]), sum(pairs[:number]))
