"""The teachers of a cache: one, or several whose mixture is cached.

The order of several teachers has no effect: they are sorted by the sha256 of their files, and their weights with them.
The manifest describes them as `teacher`:

    path       the path; of several teachers joined by ":"
    sha256     of the file; of several teachers the sha256 of the list of their sha256s
    members    the sha256 of each teacher         } only of several
    weights    how they are weighted              }
    dtype, and in some cases rounded, say how they ran.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file, sha256_of_several
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.cache.options import CachingOptions
from fairseq_kd.core.errors import KDError
from fairseq_kd.inference.frozen import FrozenModel, load_frozen
from fairseq_kd.inference.loading import load_members
from fairseq_kd.inference.mixed import MixedModels, recorded_nll
from fairseq_kd.inference.without_tokens import WithoutTokens
from fairseq_kd.loss.weights import ADAPTIVE, NLL, Weighting

NUMBERS = "numbers"


@dataclass(frozen=True)
class Described:
    """The files of the teachers and their weighting, in the order in which the cache names them."""

    paths: list[str]
    sha256: list[str]
    weighting: Weighting

    def record(self, model: "FrozenModel | MixedModels") -> dict:
        """The part of the manifest about the files and the weights. model: the result of `load_teachers`."""
        path = os.pathsep.join(os.path.abspath(path) for path in self.paths)
        if len(self.paths) == 1:
            return {"path": path, "sha256": self.sha256[0]}
        combined = sha256_of_several(self.sha256)
        return {"path": path, "sha256": combined, "members": self.sha256, "weights": self._weights(model)}

    def _weights(self, model: "MixedModels") -> dict:
        weighting = self.weighting
        if weighting.kind == NUMBERS:
            return {"kind": NUMBERS, "numbers": [number / sum(weighting.numbers) for number in weighting.numbers]}
        used = {NLL: ("temperature",), ADAPTIVE: ("temperature", "per")}.get(weighting.kind, ())
        found = {"kind": weighting.kind, **{name: getattr(weighting, name) for name in used}}
        if weighting.kind == NLL:
            found["nll"] = [recorded_nll(member) for member in model.members]
        return found


def describe_teachers(paths: list[str], weighting: Weighting, inputs: Inputs) -> Described:
    """The teachers in the order of the cache. Raises KDError for a file that does not exist."""
    if not paths:
        raise KDError("--teacher: give a checkpoint, or several joined by ':'")
    for path in paths:
        if not Path(path).is_file():
            what = "is a folder" if Path(path).is_dir() else "does not exist"
            raise KDError(f"teacher {path} {what}: give the checkpoint that fairseq-train wrote (--teacher)")
    numbers = weighting.numbers or (0.0,) * len(paths)
    found = sorted(zip((inputs.sha256(path) for path in paths), numbers, paths, strict=True))
    sha256, numbers, paths = zip(*found, strict=True)
    weighting = replace(weighting, numbers=numbers) if weighting.numbers else weighting
    return Described(list(paths), list(sha256), weighting)


def weighting_of(manifest: dict) -> Weighting:
    """The weighting of the teachers of a cache."""
    weights = manifest["teacher"].get("weights", {})
    known = {name: weights[name] for name in ("kind", "temperature", "per") if name in weights}
    return Weighting(numbers=tuple(weights.get("numbers", ())), **known)


def members_of(manifest: dict) -> list[str]:
    """The sha256 of each teacher of a cache."""
    return manifest["teacher"].get("members", [manifest["teacher"]["sha256"]])


def check_teachers(folder, manifest: dict, stated: list[str]) -> None:
    """Raises KDError unless the stated checkpoints, in any order, are the teachers that the cache was made from."""
    check_stated(folder, members_of(manifest), manifest["teacher"]["path"], stated)


def check_stated(folder, expected: list[str], names: str, stated: list[str]) -> None:
    """As `check_teachers`, for one cache or for several. expected: the sha256 of their teachers. names: their paths."""
    for path in stated:
        if not Path(path).is_file():
            raise KDError(f"teacher {path} does not exist; with --teacher-cache, --teacher is not needed")
    remaining = list(expected)
    for path in stated:
        if (sha256 := sha256_file(path)) not in remaining:
            hashes = ", ".join(f"{known[:16]}..." for known in expected)
            raise KDError(
                f"teacher cache {folder} was made from {names} (sha256 {hashes}), --teacher "
                f"{path} is another checkpoint (sha256 {sha256[:16]}...): omit --teacher, or make a cache from this "
                "checkpoint"
            )
        remaining.remove(sha256)
    if remaining:
        raise KDError(
            f"teacher cache {folder} was made from {len(expected)} teachers ({names}), --teacher "
            f"names {len(stated)} of them: omit --teacher, or name all"
        )


def check_start(folder, manifest: dict, start, option: str) -> None:
    """Raises KDError unless a cache of the student's start was made from this checkpoint. option: that names it."""
    if not Path(start).is_file():
        raise KDError(f"{option} {start} does not exist; with --kd-start-cache it is not needed")
    if members_of(manifest) != [(found := sha256_file(start))]:
        raise KDError(
            f"teacher cache {folder} (--kd-start-cache) was made from {manifest['teacher']['path']} (sha256 "
            f"{manifest['teacher']['sha256'][:16]}...), {option} {start} is another checkpoint (sha256 "
            f"{found[:16]}...): give a cache that fairseq-kd cache --teacher {start} made"
        )


def describe_weights(manifest: dict) -> list[str]:
    """The line about the weights for the summary of the command; none for a cache of one teacher."""
    if "weights" not in manifest["teacher"]:
        return []
    weighting = weighting_of(manifest)
    files = manifest["teacher"]["path"].split(os.pathsep)
    if weighting.kind == ADAPTIVE:
        how = f"{ADAPTIVE} per {weighting.per}, temperature {weighting.temperature:g}"
        return [f"    mixture of {len(files)} teachers, weights: {how}"]
    weights = weighting.fixed(len(files), manifest["teacher"]["weights"].get("nll")).exp().tolist()
    listed_weights = [f"        {weight:.4f} {file}" for weight, file in zip(weights, files, strict=True)]
    return [f"    mixture of {len(files)} teachers, weights: {weighting.kind}", *listed_weights]


def load_teachers(data_bin, described: Described, options: CachingOptions, trust: str | None = None, **how):
    """(the FrozenModel, or the MixedModels of several, and the task with the subset).

    A file that several paths name, or a copy of it, is loaded once. trust, how: see `load_members`.
    """
    first = dict(zip(reversed(described.sha256), reversed(described.paths), strict=True))
    if trust is not None and trust in described.paths:
        trust = first[described.sha256[described.paths.index(trust)]]
    how = {"dtype": options.teacher_dtype, "trust": trust, **how}
    members, task = load_members(data_bin, list(first.values()), options.subset, **how)
    if len(described.paths) == 1:
        return members[0], task
    by_hash = dict(zip(first, members, strict=True))
    return MixedModels([by_hash[sha256] for sha256 in described.sha256], described.weighting), task


def exact_teachers(teacher: FrozenModel | MixedModels, task, options: CachingOptions, trust=None, **how):
    """The teachers in float32; None if they run in float32 themselves. how: data of `load_frozen`."""
    if options.teacher_dtype == "float32":
        return None

    def exact(member: FrozenModel) -> FrozenModel:
        if options.rounds_products():
            return member.in_float32()
        found = load_frozen(member.path, languages=member.languages, trust=trust == member.path, **how)
        if isinstance(member, WithoutTokens):
            return WithoutTokens(found, task.source_dictionary, task.target_dictionary)
        return found

    if isinstance(teacher, MixedModels):
        models = {member: exact(member) for member in dict.fromkeys(teacher.members)}
        return MixedModels([models[member] for member in teacher.members], teacher.weighting)
    return exact(teacher)
