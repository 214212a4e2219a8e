"""The work of one client in one round, in a process without Flower: `python -m fairseq_kd.cli.federated_client`.

The folders of rounds before the last one that the server took are removed.
"""

import shutil
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.records import read_record, write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.federated.arrays import load_arrays, save_arrays
from fairseq_kd.federated.jobs import GLOBAL, TRAINED, round_folder
from fairseq_kd.federated.sent import check_sent
from fairseq_kd.federated.training import (
    client_arguments,
    continued,
    write_checkpoint,
    write_first_checkpoint,
)
from fairseq_kd.federated.weights import to_arrays, with_arrays

START = "start.pt"
LAST = Path("checkpoints") / "checkpoint_last.pt"


def do_job(path) -> None:
    """Train as the job says, or continue, with the threads of this process, and write trained.npz and train.json."""
    from torch import get_num_threads

    from fairseq_kd.inference.checkpoint import read_checkpoint
    from fairseq_kd.training.run import train

    job, here = read_record(path, f"remove {Path(path).parent}"), Path(path).parent
    if (here / TRAINED).exists():
        return
    start = here / START
    if not start.exists():
        _write_start(start, job)
    words = _arguments(job, start)
    if job["mu"] > 0:
        words += ["--proximal-mu", str(job["mu"]), "--proximal-weights", str(start)]
    updates = job["round"] * job["values"]["updates"]
    label = f"client {job['part']}, round {job['round']}"
    train(here, words, {"start": sha256_file(start)}, updates, label, threads=get_num_threads())
    model = read_checkpoint(here / LAST)["model"]
    save_arrays(here / TRAINED, to_arrays(model, job["shared"]))
    start.unlink()
    remove_old_rounds(here.parent, job["last"])


def _arguments(job: dict, start=None) -> list[str]:
    options = job["options"]
    if not job["local"]:  # in a local run the command has checked them, and the server is the same user
        check_sent(options)
    how = {"cpu": job["cpu"], "start": start}
    return client_arguments(job["data"], job["languages"], options, job["values"], job["round"], **how)


def _write_start(start: Path, job: dict) -> None:
    """The checkpoint with which the training of this round begins."""
    from fairseq_kd.inference.checkpoint import read_checkpoint

    arrays, updates = load_arrays(start.with_name(GLOBAL)), (job["round"] - 1) * job["values"]["updates"]
    own = round_folder(start.parent.parent, job["last"]) / LAST
    if job["last"] == 0:
        place = lambda model: with_arrays(model, arrays, job["shared"])  # noqa: E731
        write_first_checkpoint(start, _arguments(job), updates, place)
    elif own.is_file():
        state = read_checkpoint(own)
        model = with_arrays(state["model"], arrays, job["shared"])
        write_checkpoint(start, continued(state, model, updates, job["values"]["optimizer"] == "keep"))
    else:
        raise KDError(f"the server took round {job['last']} of this client, but {own} is not there: put it back")


def remove_old_rounds(folder: Path, last: int) -> None:
    """Remove the folders of rounds before `last`, whose checkpoint the next round needs."""
    for path in folder.iterdir():
        if path.name.isdecimal() and int(path.name) < last:
            shutil.rmtree(path)


def describe(data, path) -> None:
    """Write what the server asks of a client to the JSON file `path`.

    {"sentences", "tokens": of the training set's target side, with EOS; "languages", "dictionaries": their hashes}
    """
    from fairseq_kd.artifacts.hashes import dictionary_hash
    from fairseq_kd.inference.opening import infer_languages, open_data

    languages = infer_languages(data)
    task = open_data(data, languages, "train")
    sizes = task.dataset("train").tgt_sizes
    dictionaries = [dictionary_hash(each) for each in (task.source_dictionary, task.target_dictionary)]
    found = {"sentences": len(sizes), "tokens": int(sizes.sum()), "languages": list(languages)}
    write_record(path, found | {"dictionaries": dictionaries})
