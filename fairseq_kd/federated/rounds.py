"""The rounds on the server: draw clients, collect their weights, aggregate, evaluate, and record, round by round.

OUT/rounds/NUMBER/ holds global.pt (an ordinary checkpoint), strategy.npz (the state of the strategy) and round.json,
which is written last: a round without it is done again. Round 0 is the start.
"""

import random
import shutil
import sys
import time
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord

from fairseq_kd.artifacts.records import read_record, write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.federated import strategies
from fairseq_kd.federated.arrays import load_arrays, save_arrays
from fairseq_kd.federated.collect import METRICS, ChosenNodes, arrays_of, check_reply, collect, payload
from fairseq_kd.federated.messages import train_config
from fairseq_kd.federated.packing import pack
from fairseq_kd.federated.plan import drawn_clients
from fairseq_kd.federated.score import score
from fairseq_kd.federated.server_kd import distil
from fairseq_kd.federated.training import write_checkpoint
from fairseq_kd.federated.weights import to_arrays, with_arrays
from fairseq_kd.inference.checkpoint import read_checkpoint

ROUNDS, RECORD, GLOBAL, STATE = "rounds", "round.json", "global.pt", "strategy.npz"
SECONDS_TO_ANSWER = 600  # beyond `timeout`, for the way of a message through Flower


def folder_of(out, number: int) -> Path:
    """The folder of a round."""
    return Path(out) / ROUNDS / f"{number:04}"


def complete_rounds(out) -> list[dict]:
    """The records of the complete rounds, in order, from round 0. Raises KDError for a damaged record."""
    found = []
    while (record := read_record(folder_of(out, len(found)) / RECORD, "remove OUT/rounds to begin again")) is not None:
        found.append(record)
    return found


def run_rounds(grid, plan: dict, nodes: dict[int, int], lost=set, join=lambda nodes: nodes) -> list[dict]:
    """Do the rounds that are left; return the records of all. nodes: part -> node of Flower. lost: see `collect`.

    join(nodes): with the clients that have connected since; called before each round but the first.
    Raises KDError when a round fails and the spec says stop, or too few clients are left.
    """
    records = complete_rounds(plan["out"])
    first = len(records)
    while not is_finished(plan, records):
        if len(records) > first:
            nodes = join(nodes)
        record = Round(plan, records).run(grid, nodes, lost)
        records.append(record)
        _prune(plan, len(records) - 1)
    return records


def is_finished(plan: dict, records: list[dict]) -> bool:
    """Whether the last round is done, or the target is reached and the spec says to stop there."""
    reached = plan["spec"]["stop-at-target"] and reached_in(plan, records) is not None
    return len(records) > plan["spec"]["rounds"] or reached


def reached_in(plan: dict, records: list[dict]) -> int | None:
    """The number of the first round whose BLEU is at least the goal, or None."""
    if plan["goal"] is None:
        return None
    found = (record["round"] for record in records if (record["bleu"] or 0) >= plan["goal"])
    return next(found, None)


def drawn(seed: int, number: int, clients: int, fraction: float) -> list[int]:
    """The parts that take part in a round, ascending: a draw that depends on these numbers alone."""
    return sorted(random.Random(f"{seed}/{number}").sample(range(1, clients + 1), drawn_clients(clients, fraction)))


class Round:
    """One round. records: of the rounds before it."""

    def __init__(self, plan: dict, records: list[dict]):
        self.plan, self.spec, self.records = plan, plan["spec"], records
        self.number, self.folder = len(records), folder_of(plan["out"], len(records))
        self.before = folder_of(plan["out"], self.number - 1)
        self.shared = records[0]["shared"]
        self.name = self.spec["strategy"]["name"]

    def run(self, grid, nodes: dict[int, int], lost) -> dict:
        """Do the round; return its record."""
        begun = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        state = read_checkpoint(self.before / GLOBAL)
        arrays = to_arrays(state["model"], self.shared)
        strategy, messages = self._configure(grid, nodes, arrays)
        for message in messages.values():
            message.content = pack(message.content)
        sent = sum(map(payload, messages.values()))
        found = collect(grid, messages, self.spec["timeout"], lambda reply: check_reply(reply, arrays), lost)
        found.failed |= {part: "its node is not connected" for part in self._drawn() if part not in nodes}
        self._check_failures(found, len(self._drawn()))
        replies = dict(sorted(found.replies.items()))
        models = {part: arrays_of(reply) for part, reply in replies.items()} if self.spec["server-kd"] else {}
        numbers = {part: dict(reply.content[METRICS]) for part, reply in replies.items()}
        aggregated, _ = strategy.aggregate_train(self.number, list(replies.values()))
        updates = sum(int(each["updates"]) for each in numbers.values())
        new = {name: array.numpy() for name, array in aggregated.items()}
        updates += self._write_global(state, new, models)
        save_arrays(self.folder / STATE, strategies.state_of(strategy, self.name))
        record = {
            "round": self.number,
            "clients": {str(part): each for part, each in numbers.items()},
            "failed": {str(part): reason for part, reason in sorted(found.failed.items())},
            "bytes_sent": sent,
            "bytes_received": found.received,
            "updates": updates,
            "bleu": score(self.plan, self.number, self.folder / GLOBAL),
            "seconds": round(time.monotonic() - begun, 1),
        }
        write_record(self.folder / RECORD, record)
        return record

    def _configure(self, grid, nodes: dict[int, int], arrays: dict):
        """(the strategy with its state, part -> the message that it has made for the part)."""
        parts = [part for part in self._drawn() if part in nodes]
        strategy = strategies.build(self.spec["strategy"], len(parts))
        if self.number > 1:
            strategies.restore(strategy, self.name, load_arrays(self.before / STATE))
        config = ConfigRecord(train_config(self.plan, self.number, self._last_rounds(), self.shared))
        record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
        chosen = ChosenNodes(grid, [nodes[part] for part in parts])
        made = strategy.configure_train(self.number, record, config, chosen)
        of_node = {node: part for part, node in nodes.items()}
        messages = {of_node[message.metadata.dst_node_id]: message for message in made}
        for message in messages.values():  # Flower drops a reply that comes later
            message.metadata.ttl = max(message.metadata.ttl, self.spec["timeout"] + SECONDS_TO_ANSWER)
        return strategy, dict(sorted(messages.items()))

    def _drawn(self) -> list[int]:
        return drawn(self.spec["seed"], self.number, self.plan["clients"], self.spec["fraction"])

    def _last_rounds(self) -> list[int]:
        """For each part the last round in which its weights were used, 0 for none."""
        return [
            max((r["round"] for r in self.records if str(part) in r["clients"]), default=0)
            for part in range(1, self.plan["clients"] + 1)
        ]

    def _check_failures(self, found, sent: int) -> None:
        for part, reason in sorted(found.failed.items()):
            print(f"round {self.number}: client {part} has failed: {reason}", file=sys.stderr, flush=True)
        if not found.failed:
            return
        part, reason = min(found.failed.items())
        if self.spec["on-failure"] == "stop":
            raise KDError(
                f"round {self.number}: client {part} has failed: {reason}. on-failure is stop, so the run ends; remove "
                "the cause, or give on-failure: go-on, and give the same command again"
            )
        if len(found.replies) < self.spec["min-clients"]:
            raise KDError(
                f"round {self.number}: only {len(found.replies)} of {sent} clients have sent weights, and min-clients "
                f"is {self.spec['min-clients']}; client {part} has failed: {reason}. Give the same command again"
            )

    def _write_global(self, state: dict, arrays: dict, models: dict) -> int:
        """Write global.pt; return the updates that the server has made."""
        updates, path = self.number * self.spec["updates"], self.folder / GLOBAL
        if not models:
            _write(path, state, with_arrays(state["model"], arrays, self.shared), updates)
            return 0
        for stale in self.folder.glob("client*.pt"):  # of a killed round, in which others may have answered
            stale.unlink()
        names = {part: self.folder / f"client{part}.pt" for part in models}
        for part, name in names.items():
            _write(name, state, with_arrays(state["model"], models[part], self.shared), updates)
        aggregated = self.folder / "aggregated.pt"
        _write(aggregated, state, with_arrays(state["model"], arrays, self.shared), updates)
        model = distil(self.plan, self.number, self.folder / "server-kd", list(names.values()), aggregated)
        _write(path, state, model, updates)
        shutil.rmtree(self.folder / "server-kd")
        for name in (*names.values(), aggregated):
            name.unlink()
        return self.spec["server-kd"]["updates"]


def _write(path: Path, state: dict, model: dict, updates: int) -> None:
    from omegaconf import OmegaConf

    last = state["optimizer_history"][-1] | {"num_updates": updates}
    plain = OmegaConf.to_container(state["cfg"], resolve=False, enum_to_str=True)
    new = {"model": model, "optimizer_history": [last], "last_optimizer_state": None, "cfg": plain}
    write_checkpoint(path, state | new)


def _prune(plan: dict, number: int) -> None:
    """Remove models and states of rounds that are older than the last `keep-rounds`. The records stay."""
    for old in range(number - plan["spec"]["keep-rounds"] + 1):
        for name in (GLOBAL, STATE):
            (folder_of(plan["out"], old) / name).unlink(missing_ok=True)
