"""Commands on small artefacts, disturbed while they run or given damaged input; see tests/faults/server.py."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from argparse import Namespace
from collections import namedtuple
from pathlib import Path

from conftest import ROOT

from fairseq_kd.artifacts.records import write_record

ALL = bool(os.environ.get("FAIRSEQ_KD_FAULTS"))  # `make faults`; else a small share of the cases
DAMAGES = ("flip", "cut", "empty", "delete", "folder", "garbage")
Answer = namedtuple("Answer", "status text events read_at")
SHORT = ("--max-len-a", "0", "--max-len-b", "5", "--cpu")
# its dictionaries are elsewhere than the data, which a test may damage
TEACHER = "--teacher {0}/teacher.pt --teacher-data {0}/dictionaries"
COMMANDS = {  # name: what `fairseq-kd` is given; {0} is the folder with the inputs, {1} the folder of the output
    "prepare": "prepare text --source-lang qaa --target-lang qab --raw {0}/raw --vocab-size 64 --out {1}/out",
    "noise": "noise --data-bin {0}/data-bin --delete 0.1 --substitute 0.1 --swap 0.1 --side both --out {1}/out",
    "noise-text": "noise --prefix {0}/raw/train -s qaa -t qab --delete 0.1 --swap 0.1 --side both --out {1}/out",
    "partition": "partition {0}/data-bin --parts 3 --by topic --topics 3 --alpha 1 --no-plot --out {1}/out",
    "partition-text": "partition --prefix {0}/raw/train -s qaa -t qab --parts 3 --by length --no-plot --out {1}/out",
    "mix": "mix {0}/data-bin {0}/decoded --times 1 0.5 --out {1}/out",
    "cache": "cache {0}/data-bin TEACHER --top-k 4 --tail-shapes 2 --cpu --out {1}/out",
    "cache-mixture": "cache {0}/data-bin --teacher {0}/teacher.pt:{0}/checkpoints/checkpoint1.pt"
    " --teacher-data {0}/dictionaries --teacher-weights adaptive --top-k 4 --tail-shapes 2 --cpu --out {1}/out",
    "split": "split {0}/mutual.pt --out {1}/out",
    "decode": "decode {0}/data-bin TEACHER --backend fairseq --beam 2 --out {1}/out SHORT",
    "select-teacher": "select-teacher {0}/data-bin --checkpoints {0}/checkpoints --by low-loss --out {1}/out SHORT",
}


class Server:
    """A process with the libraries loaded, in whose children commands run."""

    def __init__(self):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, str(ROOT / "tests" / "faults" / "server.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(words, env=environment, text=True, **pipes)

    def run(self, argv, folder: Path, **disturbance) -> Answer:
        """Run `fairseq-kd ARGV`. disturbance: see server.py. status: -9 when it was killed."""
        log = folder.with_name(f"{folder.name}.log")
        case = {"argv": [str(word) for word in argv], "folder": str(folder), "log": str(log), **disturbance}
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        return Answer(found["status"], log.read_text(), found.get("events"), found.get("read_at"))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def unpack(folder: Path) -> Path:
    """A folder with a data-bin of 60 pairs, its text, a decoded data-bin, a teacher, two checkpoints, a composite."""
    with tarfile.open(ROOT / "tests" / "older" / "older.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    manifest = folder / "data-bin" / "manifest.json"
    write_record(manifest, json.loads(manifest.read_text()))  # as this version writes it
    for name in ("checkpoints", "dictionaries"):
        (folder / name).mkdir()
    for path in (folder / "data-bin").glob("dict.*"):
        shutil.copyfile(path, folder / "dictionaries" / path.name)
    for number, name in enumerate((folder / "teacher.pt", *folder.glob("study/stages/student*/checkpoints/*best.pt"))):
        shutil.copyfile(name, folder / "checkpoints" / f"checkpoint{number}.pt")
    write_composite(folder / "teacher.pt", folder / "mutual.pt")
    return folder


def write_composite(source: Path, path: Path) -> None:
    """A checkpoint of --arch kd_mutual whose two peers are copies of the model in `source`."""
    import torch

    state = torch.load(source)
    model = state["cfg"]["model"]
    options = dict(vars(model) if isinstance(model, Namespace) else model)
    peers = [{"arch": "transformer", **options} for _ in range(2)]
    state["cfg"]["model"] = Namespace(arch="kd_mutual", _name="kd_mutual", peer_options=peers)
    state["model"] = {f"peers.{n}.{name}": value for n in range(2) for name, value in state["model"].items()}
    torch.save(state, path)


def command(name: str, inputs: Path, out: Path) -> list[str]:
    words = COMMANDS[name].replace("TEACHER", TEACHER).format(inputs, out).split()
    return [part for word in words for part in (SHORT if word == "SHORT" else (word,))]


def content(folder: Path, *left_out: str) -> dict:
    """Relative name -> bytes of every file, hidden ones too."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: value for name, value in found.items() if name not in left_out}


def assert_one_error(answer: Answer, *fragments: str) -> None:
    """Status 2 and one line of ours, which holds the fragments; no traceback."""
    assert "Traceback" not in answer.text, answer.text[-2000:]
    assert answer.status == 2, answer
    lines = [line for line in answer.text.splitlines() if line.startswith("fairseq_kd: error:")]
    assert len(lines) == 1, answer.text
    for fragment in fragments:
        assert fragment in lines[0], lines[0]


def damage(path, how: str) -> None:
    """Damage a file in one of DAMAGES. A flip changes one bit in the middle."""
    found = bytearray(path.read_bytes())
    path.unlink()
    if how == "flip":
        found[len(found) // 2] ^= 1
        path.write_bytes(found)
    elif how == "folder":
        path.mkdir()
    elif how != "delete":
        path.write_bytes({"cut": found[: len(found) * 2 // 3], "empty": b"", "garbage": b"\x93garbage\n" * 9}[how])
