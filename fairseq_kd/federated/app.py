"""`server_app` and `client_app` for Flower: the same in a local run and in a real federation.

Run config of the server: `plan`, the path of plan.json. Node config of a client: `part` (its number from 1), `data`
(its data-bin), `folder` (for its checkpoints), `cpu` (true, where CUDA is not to be used), `threads` (of its trainings;
as many as torch takes by itself where it is not given), and `local` (true in a local run, whose server is the same
user, so that it may send every option; see `sent`).
"""

import json
import os
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fairseq_kd.artifacts.hashes import sha256_file
from fairseq_kd.artifacts.records import read_record, write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.core.preloaded import start_python
from fairseq_kd.federated.arrays import load_arrays
from fairseq_kd.federated.collect import CONFIG, METRICS
from fairseq_kd.federated.jobs import TRAINED, job_of, prepare_job
from fairseq_kd.federated.packing import ARRAYS, packed, unpack

WORKER = "fairseq_kd.cli.federated_client"
ABOUT, LOG = "about.json", "client.log"
LOG_LINES = 3
FAILED, LOST, SERVER = "failed.json", "lost", "server.json"  # in OUT/engine

server_app = ServerApp()
client_app = ClientApp()


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """Do the rounds of the plan. A failure is also written to OUT/engine/failed.json.

    The package is registered with fairseq: the import does that, and in a local run `cli.flower_program`.
    """
    from fairseq_kd.federated.plan import read_plan
    from fairseq_kd.federated.serving import serve_rounds

    plan = read_plan(context.run_config["plan"])
    engine = Path(plan["out"]) / "engine"
    write_record(engine / SERVER, {"pid": os.getpid()})
    try:
        serve_rounds(grid, plan, lambda: lost_parts(engine))
    except KDError as error:
        write_record(engine / FAILED, {"message": str(error)})
        raise
    except Exception as error:
        message = f"the server of the rounds has failed ({type(error).__name__}: {error}); see {engine}/superlink.log"
        write_record(engine / FAILED, {"message": " ".join(message.split())})
        raise


def lost_parts(engine: Path) -> set[int]:
    """The parts whose node has ended, as the command that watches them has noted in the folder OUT/engine/lost."""
    return {int(path.name) for path in (engine / LOST).glob("*")}


@client_app.query()
def answer(message: Message, context: Context) -> Message:
    """Say which part this client has, how large it is, and which dictionaries it has."""
    node = context.node_config
    about = _about(node, timeout=600)
    numbers = MetricRecord({"part": int(node["part"]), "sentences": about["sentences"], "tokens": about["tokens"]})
    words = ConfigRecord({name: about[name] for name in ("languages", "dictionaries")})
    return Message(RecordDict({METRICS: numbers, CONFIG: words}), reply_to=message)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train on the part from the weights of the message, and send the new weights."""
    begun, node, config = time.monotonic(), context.node_config, message.content[CONFIG]
    about = _about(node, config["timeout"])
    flags = [bool(node.get(name, False)) for name in ("cpu", "local")]
    job = job_of(config, int(node["part"]), node["data"], about["languages"], *flags)
    arrays = {name: array.numpy() for name, array in unpack(message.content)[ARRAYS].items()}
    path = prepare_job(node["folder"], job, arrays)
    _work(node, [str(path)], config["timeout"])
    numbers = MetricRecord(
        {
            "num-examples": about[config["weights-by"]],
            "sentences": about["sentences"],
            "updates": job["values"]["updates"],
            "seconds": round(time.monotonic() - begun, 1),
        }
    )
    return Message(packed(load_arrays(path.with_name(TRAINED)), {METRICS: numbers}), reply_to=message)


def _about(node: dict, timeout: float) -> dict:
    """What `client.describe` says about the part; the file of an earlier round is read if the data are the same."""
    path, data = Path(node["folder"]) / ABOUT, Path(node["data"])
    path.parent.mkdir(parents=True, exist_ok=True)
    files = sorted({*data.glob("dict.*.txt"), *data.glob("train.*.idx")})
    of = {"data": str(data), "files": {file.name: sha256_file(file) for file in files}}
    found = read_record(path, f"remove {path}")
    if found is None or found.get("of") != of:
        _work(node, ["describe", str(data), str(path)], timeout)
        found = read_record(path, f"remove {path}") | {"of": of}
        write_record(path, found)
    return found


def _work(node: dict, words: list[str], timeout: float) -> None:
    """Run the worker. Raises KDError with the end of its log when it fails, or takes longer than `timeout` seconds."""
    log = Path(node["folder"]) / LOG
    with open(log, "ab") as output:
        process = start_python([WORKER, *words], output.fileno(), threads=node.get("threads"))
        try:
            status = process.wait(timeout)
        except Exception as error:  # TimeoutError, or that of subprocess
            raise KDError(f"the training has not ended within {timeout:g} seconds") from error
        finally:
            process.kill()
            process.wait()
    if status != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        raise KDError(f"its process ended with status {status}: {json.dumps(' '.join(lines))}")
