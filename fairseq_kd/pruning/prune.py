"""A checkpoint and a data-bin -> the same with the tokens that the data-bin uses.

    SMALL.pt       the checkpoint with fewer rows; without the optimizer's state
    NEW_DATA_BIN   the same sentences with the new ids, and the smaller dictionaries

Without a new data-bin, the smaller dictionaries are beside SMALL.pt. The checkpoint records the folder with them.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import open_dict

from fairseq_kd.artifacts.data_bin import subsets_of
from fairseq_kd.artifacts.folders import finished
from fairseq_kd.artifacts.hashes import data_files
from fairseq_kd.artifacts.inputs import Inputs
from fairseq_kd.artifacts.request import check_same
from fairseq_kd.artifacts.writing import create_file, ensure_writable_file
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.paths import check_data_bin, check_new_data_bin
from fairseq_kd.inference.checkpoint import read_checkpoint, write_initial_checkpoint
from fairseq_kd.pruning.chosen import Chosen, choose, read_listed
from fairseq_kd.pruning.data_bin import write_data_bin
from fairseq_kd.pruning.opening import Opened, check_data_dictionaries, configured, open_checkpoint
from fairseq_kd.pruning.weights import check_same_model, pruned_weights, size_of

KIND = "fairseq_kd pruned data-bin"
FORMAT = 1
MARK = "pruned_from"  # key in "extra_state" of the checkpoint: the request


@dataclass(frozen=True)
class PruneOptions:
    """subsets: those whose tokens are counted, None: all. keep: file with further tokens. min_count: occurrences that
    an entry needs. dictionaries: folder of the checkpoint's dictionaries, None: the recorded one. lang_pair:
    SOURCE-TARGET, None: the pair of checkpoint or data-bin.
    """

    subsets: tuple[str, ...] | None = None
    keep: str | None = None
    min_count: int = 1
    dictionaries: str | None = None
    lang_pair: str | None = None
    trust: bool = False


@dataclass(frozen=True)
class Report:
    """Sizes (before, after). folder: with the small dictionaries."""

    entries: list[tuple[int, int]]
    parameters: tuple[int, int]
    weight_bytes: tuple[int, int]
    chosen: Chosen
    folder: Path


def prune_vocabulary(checkpoint, data_bin, out, out_data=None, options: PruneOptions | None = None) -> Report:
    """Write the checkpoint `out` and, if `out_data` is given, the data-bin. Results of the same request are kept.

    Raises KDError for bad input; then nothing is written.
    """
    options = options or PruneOptions()
    _check_arguments(checkpoint, data_bin, out, out_data, options)
    with Inputs() as inputs:
        inputs.watch(checkpoint, *([options.keep] if options.keep else []))
        inputs.watch_data_bin(data_bin)
        return _prune(checkpoint, data_bin, Path(out), out_data and Path(out_data), options, inputs)


def _check_arguments(checkpoint, data_bin, out, out_data, options: PruneOptions) -> None:
    check_data_bin(data_bin, "--data")
    if out_data is not None:
        check_new_data_bin(out_data, "--out-data")
    if options.min_count < 1:
        raise KDError(f"--min-count {options.min_count}: must be 1 or above")
    ensure_writable_file(out)
    check_new_data_bin(Path(out).parent, "--out")
    if Path(out).exists() and Path(checkpoint).exists() and Path(out).samefile(checkpoint):
        raise KDError(f"--out {out} is the checkpoint itself: give another file")


def _prune(checkpoint, data_bin, out: Path, out_data, options: PruneOptions, inputs: Inputs) -> Report:
    listed = read_listed(options.keep) if options.keep else frozenset()
    opened = open_checkpoint(checkpoint, data_bin, options.dictionaries, options.lang_pair, options.trust)
    check_data_dictionaries(opened, data_bin)
    chosen = choose(opened, data_bin, options.subsets, listed, options.min_count)
    folder = Path(out_data or out.parent).absolute()
    request = _request(opened, data_bin, options, listed, inputs)
    done = _is_done(out, request | {"dictionaries_in": str(folder)}, options.trust)
    texts = {lang: _dictionary_text(opened, chosen, side) for side, lang in enumerate(opened.languages)}
    weights = pruned_weights(opened, chosen)
    size = check_same_model(opened, chosen, weights, texts)
    if out_data is None:
        inputs.check()
        _write_dictionaries(folder, texts)
    elif finished(out_data, request) is None:
        write_data_bin(opened, chosen, data_bin, out_data, texts, request, inputs)
    if not done:
        _write_checkpoint(opened, out, folder, weights, request | {"dictionaries_in": str(folder)})
    return Report(
        entries=[(len(keep), int(keep.sum())) for keep in chosen.keep],
        parameters=(size_of(opened.model), size),
        weight_bytes=(_bytes(opened.state["model"]), _bytes(weights)),
        chosen=chosen,
        folder=folder,
    )


def _request(opened: Opened, data_bin, options: PruneOptions, listed, inputs: Inputs) -> dict:
    subsets = subsets_of(data_bin, opened.languages)
    names = [name for subset in subsets for name in data_files(data_bin, subset, *opened.languages)]
    names += [f"dict.{lang}.txt" for lang in dict.fromkeys(opened.languages)]
    return {
        "kind": KIND,
        "format": FORMAT,
        "checkpoint": inputs.sha256(opened.path),
        "languages": list(opened.languages),
        "counted": list(options.subsets) if options.subsets else None,
        "keep": sorted(listed),
        "min_count": options.min_count,
        "input": inputs.hashes(data_bin, names),
    }


def _is_done(out: Path, request: dict, trust: bool) -> bool:
    """Whether `out` was made from this request. Raises KDError when it is another file, which would be lost."""
    if not out.exists():
        return False
    found = (read_checkpoint(out, trust=trust).get("extra_state") or {}).get(MARK)
    if found is None:
        raise KDError(f"--out {out} exists and is not a pruned checkpoint, and it would be lost: give another file")
    check_same(out, found, request)
    return True


def _dictionary_text(opened: Opened, chosen: Chosen, side: int) -> str:
    """The content of the small dictionary: the kept entries of the file, in their order, with their counts.

    fairseq reads an entry that occurs twice only if it is marked.
    """
    file, seen, lines = opened.files[side], set(), []
    seen.update(file.symbols[: file.nspecial])
    for number in range(file.nspecial, len(file)):
        if chosen.keep[side][number]:
            symbol = file.symbols[number]
            mark = " #fairseq:overwrite" if symbol in seen else ""
            lines.append(f"{symbol} {file.count[number]}{mark}\n")
            seen.add(symbol)
    return "".join(lines)


def _write_dictionaries(folder: Path, texts: dict[str, str]) -> None:
    """Write the dictionaries beside the checkpoint. Raises KDError when another dictionary would be lost."""
    for lang, text in texts.items():
        path = folder / f"dict.{lang}.txt"
        create_file(path, [text.encode("utf-8")])
        if path.read_bytes() != text.encode("utf-8"):
            raise KDError(
                f"{path} exists and is another dictionary, but the small one belongs there, beside --out: give a "
                "--out in a folder of its own, or --out-data"
            )


def _write_checkpoint(opened: Opened, out: Path, folder: Path, weights: dict, mark: dict) -> None:
    state = configured(opened, folder)
    if "last_optimizer_state" in state:
        state["last_optimizer_state"] = None
    with open_dict(state["cfg"]):
        state["extra_state"] = (state.get("extra_state") or {}) | {MARK: mark}
    write_initial_checkpoint(out, state, weights)


def _bytes(weights: dict) -> int:
    """The bytes of the weights; tied ones count once."""
    tensors = [value for value in weights.values() if isinstance(value, torch.Tensor)]
    return sum({(one.data_ptr(), one.shape): one.numel() * one.element_size() for one in tensors}.values())
