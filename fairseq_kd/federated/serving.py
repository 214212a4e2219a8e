"""The server: find the clients, check that they fit, do the rounds, and write the result."""

import time
from pathlib import Path

from flwr.app import Message, MessageType, RecordDict

from fairseq_kd.artifacts.derived import link
from fairseq_kd.artifacts.records import write_record
from fairseq_kd.core.errors import KDError
from fairseq_kd.federated.collect import CONFIG, METRICS, collect
from fairseq_kd.federated.rounds import GLOBAL, folder_of, reached_in, run_rounds

RESULT, FORMAT = "result.json", 1
FINAL = "final.pt"  # in OUT: the global model after the last round
SECONDS_TO_CONNECT, SECONDS_BETWEEN_LOOKS, SECONDS_AFTER_A_LOSS = 120, 0.2, 30


def serve_rounds(grid, plan: dict, lost) -> None:
    """Do the rounds that are left; write OUT/final.pt and OUT/result.json. lost: see `collect`. Raises KDError."""
    nodes = find_clients(grid, plan, lost)
    records = run_rounds(grid, plan, nodes, lost, lambda nodes: join_clients(grid, plan, nodes))
    link(folder_of(plan["out"], len(records) - 1) / GLOBAL, Path(plan["out"]) / FINAL)
    write_record(Path(plan["out"]) / RESULT, result_of(plan, records))


def find_clients(grid, plan: dict, lost=set) -> dict[int, int]:
    """Part -> node of Flower, for all clients of the plan; with on-failure go-on, for min-clients of them or more.

    Raises KDError when too few clients connect, two have the same number, or one has other dictionaries.
    """
    wanted, end = plan["clients"], time.monotonic() + max(SECONDS_TO_CONNECT, plan["spec"]["timeout"])
    enough = plan["spec"]["min-clients"] if plan["spec"]["on-failure"] == "go-on" else wanted
    while len(ids := sorted(grid.get_node_ids())) < wanted:
        if lost():  # the others may still be starting
            end = min(end, time.monotonic() + SECONDS_AFTER_A_LOSS)
        if time.monotonic() > end or (lost() and enough == wanted):
            if len(ids) >= enough:
                break
            raise KDError(f"only {len(ids)} of {wanted} clients have connected to the server: see OUT/engine/*.log")
        time.sleep(SECONDS_BETWEEN_LOOKS)
    nodes, failed = _ask(grid, plan, ids, {})
    if len(nodes) < enough:
        reason = min(failed.items())[1] if failed else "they are not connected"
        missing = ", ".join(str(part) for part in range(1, wanted + 1) if part not in nodes)
        raise KDError(f"the clients of part {missing} do not answer: {reason}. See OUT/engine/*.log")
    return nodes


def join_clients(grid, plan: dict, nodes: dict[int, int]) -> dict[int, int]:
    """`nodes` with clients that have connected since: those that were missing, and those whose node is a new one."""
    ids = set(grid.get_node_ids())
    new = sorted(ids - set(nodes.values()))
    there = {part: node for part, node in nodes.items() if node in ids}
    return nodes | _ask(grid, plan, new, there)[0] if new else nodes


def _ask(grid, plan: dict, ids: list[int], known: dict[int, int]) -> tuple[dict[int, int], dict[int, str]]:
    """(part -> node for each node that answers, node -> what is wrong). known: parts that other nodes have."""
    messages = {node: Message(RecordDict(), message_type=MessageType.QUERY, dst_node_id=node) for node in ids}
    found = collect(grid, messages, plan["spec"]["timeout"], lambda reply: None, set)
    nodes = {}
    for node, reply in sorted(found.replies.items()):
        part = int(reply.content[METRICS]["part"])
        _check_client(plan, part, reply.content[CONFIG], known | nodes)
        nodes[part] = node
    return nodes, found.failed


def _check_client(plan: dict, part: int, found, nodes: dict) -> None:
    if not 1 <= part <= plan["clients"] or part in nodes:
        why = "two clients have this number" if part in nodes else f"numbers are 1 to {plan['clients']}"
        raise KDError(f"a client has the part {part}: {why}. Give each client its own number in its node config")
    for name in ("languages", "dictionaries"):
        if list(found[name]) != plan[name]:
            raise KDError(
                f"the client of part {part} has other {name} than the server: all data-bins must be binarised with the "
                "same dictionaries"
            )


def result_of(plan: dict, records: list[dict]) -> dict:
    """The content of result.json.

    "target": None, or {"bleu", "reached": None or {"round", "bytes", "updates", "seconds"}}, counted up to that round.
    bytes are the payload of Flower's ArrayRecords, in both directions.
    """
    reached = reached_in(plan, records)
    target = None if plan["goal"] is None else {"bleu": plan["goal"], "reached": None}
    if reached is not None:
        target["reached"] = {"round": reached, **totals(records[: reached + 1])}
    return {
        "kind": "federated",
        "format": FORMAT,
        "strategy": plan["spec"]["strategy"],
        "clients": plan["clients"],
        "rounds": records,
        "total": totals(records),
        "target": target,
        "bleu": records[-1]["bleu"],
        "model": f"rounds/{len(records) - 1:04}/global.pt",
    }


def totals(records: list[dict]) -> dict:
    """{"bytes", "updates", "seconds"} of these rounds."""
    return {
        "bytes": sum(record["bytes_sent"] + record["bytes_received"] for record in records),
        "updates": sum(record["updates"] for record in records),
        "seconds": round(sum(record["seconds"] for record in records), 1),
    }
