"""The job of a client in a round, and its folder. Nothing here needs torch: the process of Flower imports it.

FOLDER/ROUND/ holds, in this order: global.npz (the weights that the server sent), job.json, start.pt, checkpoints/
(fairseq-train), train.json and trained.npz.
"""

import json
import shutil
from pathlib import Path

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.records import read_record, write_record
from fairseq_kd.federated.arrays import save_arrays

GLOBAL, JOB, TRAINED = "global.npz", "job.json", "trained.npz"


def round_folder(folder, number: int) -> Path:
    """The folder of a round."""
    return Path(folder) / f"{number:04}"


def prepare_job(folder, job: dict, arrays: dict) -> Path:
    """Write the weights and the job of a round. The folder of an earlier job of this round with another content goes.

    job: {"round", "last", "options", "values", "data", "languages", "cpu", "local", "mu", "shared"}.
    Returns the path of the job.
    """
    here = round_folder(folder, job["round"])
    here.mkdir(parents=True, exist_ok=True)
    save_arrays(here / f"new-{GLOBAL}", arrays)
    job = job | {"weights": sha256_file(here / f"new-{GLOBAL}")}
    if (here / JOB).exists() and read_record(here / JOB, f"remove {here}") == job:
        (here / f"new-{GLOBAL}").unlink()
        return here / JOB
    for path in here.iterdir():
        if path.name != f"new-{GLOBAL}":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (here / f"new-{GLOBAL}").rename(here / GLOBAL)
    write_record(here / JOB, job)
    return here / JOB


def job_of(config: dict, part: int, data, languages, cpu: bool, local: bool) -> dict:
    """The job of a client (`client.prepare_job`) from the values of the message. local: see `engine`."""
    return {
        "part": part,
        "round": config["round"],
        "last": config["last-rounds"][part - 1],
        "options": json.loads(config["options"]),
        "values": json.loads(config["values"]),
        "shared": json.loads(config["shared"]),
        "mu": float(config.get("proximal-mu", 0.0)),
        "data": str(data),
        "languages": list(languages),
        "cpu": cpu,
        "local": local,
    }
