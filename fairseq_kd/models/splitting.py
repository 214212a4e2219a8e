"""Checkpoints of a mutual training -> ordinary checkpoints, one per peer.

    DIR/peer1/NAME.pt, DIR/peer2/NAME.pt, ...    one folder per peer, as the --save-dir of a training of its own
    DIR/manifest.json                            the composites by hash, and the hash of each file

A peer's checkpoint records its own architecture, and label_smoothed_cross_entropy as its criterion. fairseq-generate,
fairseq-validate and all commands of this package read it. It has no state of the optimizer.
"""

from argparse import Namespace
from dataclasses import fields
from pathlib import Path

from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from omegaconf import OmegaConf, open_dict

from fairseq_kd.artifacts.folders import finished, folder_in_progress
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.manifest import MANIFEST_NAME, hash_files, library_versions
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.progress import Progress
from fairseq_kd.inference.checkpoint import read_checkpoint, save_initial_checkpoint
from fairseq_kd.inference.supported import COMPOSITE

KIND, FORMAT = "fairseq_kd split checkpoint", 1
OF_ALL = ("ema", "ema_fp32_params")  # averaged weights of the whole composite (--store-ema)


def split_checkpoints(paths, out, trusted=()) -> dict:
    """Write the peers of each composite to the folder `out`, and return its manifest; a finished `out` is kept.

    paths: checkpoints with different file names. trusted: those to load even if they hold code.
    The folder is complete or absent. Raises KDError for a checkpoint that is no composite or cannot be read.
    """
    by_name = {}
    for path in paths:
        if not Path(path).is_file():
            raise KDError(f"checkpoint {path} is not there")
        if (other := by_name.setdefault(Path(path).name, path)) != path:
            raise KDError(
                f"{other} and {path} have the same file name, which their peers would get too: split each to its own "
                "--out"
            )
    with Inputs() as inputs:
        inputs.watch(*by_name.values())
        composites = {name: {"sha256": inputs.sha256(path)} for name, path in sorted(by_name.items())}
        request = {"kind": KIND, "format": FORMAT, "composites": composites}
        if (manifest := finished(out, request)) is not None:
            return manifest
        with folder_in_progress(out, inputs) as folder:
            progress = Progress("splitting", len(by_name), "checkpoints")
            counts = []
            for name, path in by_name.items():
                counts.append(_split(path, folder, name, trust=path in trusted))
                progress.advance(1)
            progress.finish()
            manifest = request | {"peers": max(counts), "versions": library_versions(), "files": hash_files(folder)}
            write_record(folder / MANIFEST_NAME, manifest)
    return manifest


def _split(path, folder: Path, name: str, trust: bool) -> int:
    """Write folder/peerI/name for each peer of a composite; return the number of peers."""
    state = read_checkpoint(path, trust=trust)
    options, weights = peers_of(path, state)
    state["extra_state"] = {key: value for key, value in state["extra_state"].items() if key not in OF_ALL}
    with open_dict(state["cfg"]):
        state["cfg"].criterion = _own_criterion(state["cfg"].criterion)
    for number, (own_options, own_weights) in enumerate(zip(options, weights, strict=True), 1):
        with open_dict(state["cfg"]):
            state["cfg"].model = Namespace(**own_options)
        (folder / f"peer{number}").mkdir(exist_ok=True)
        save_initial_checkpoint(folder / f"peer{number}" / name, state, own_weights)
    return len(options)


def peers_of(path, state: dict) -> tuple[list[dict], list[dict]]:
    """(options of the model, weights) of each peer of a composite. state: of `read_checkpoint`.

    Raises KDError for a checkpoint that is no composite, and for one whose weights do not fit its peers.
    """
    model = state["cfg"].model
    arch = str(getattr(model, "arch", None) or getattr(model, "_name", None))
    if arch != COMPOSITE:
        raise KDError(f"{path} is a {arch}, one model already: give a checkpoint of --arch {COMPOSITE}")
    found = getattr(model, "peer_options", None)
    options = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
    if not _are_options(options):
        raise KDError(f"{path} is damaged: it does not record the options of its peers. Copy it again from its source")
    weights = [{} for _ in options]
    for name, value in state["model"].items():
        first, number, rest = ([*str(name).split(".", 2), "", ""])[:3]
        if first != "peers" or not number.isdecimal() or int(number) >= len(options) or not rest:
            raise KDError(
                f"{path} is damaged: its weight {name} belongs to none of its {len(options)} peers. Copy it again from "
                "its source"
            )
        weights[int(number)][rest] = value
    if missing := [number for number, own in enumerate(weights, 1) if not own]:
        raise KDError(f"{path} is damaged: it has no weights of peer {missing[0]}. Copy it again from its source")
    return options, weights


def _are_options(options) -> bool:
    def is_one(each) -> bool:
        return (
            isinstance(each, dict) and all(isinstance(key, str) for key in each) and bool({"arch", "_name"} & {*each})
        )

    return isinstance(options, list) and len(options) > 1 and all(map(is_one, options))


def _own_criterion(criterion) -> dict:
    """The stock criterion with the options that kd_mutual has too: fairseq-validate gives the peer's own loss."""
    names = [field.name for field in fields(LabelSmoothedCrossEntropyCriterionConfig)]
    kept = {name: criterion[name] for name in names if name in criterion}
    return kept | {"_name": "label_smoothed_cross_entropy"}
