"""Messages of a round: to which nodes they go, which replies come in time, and which of them can be used."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flwr.app import Message, MetricRecord
from flwr.serverapp import Grid

from fairseq_kd.federated.arrays import Arrays, BadWeights, check_arrays
from fairseq_kd.federated.packing import ARRAYS, unpack

SECONDS_BETWEEN_LOOKS = 0.2
CONFIG, METRICS = "config", "metrics"
ANSWERED = ("num-examples", "sentences", "updates", "seconds")


class ChosenNodes(Grid):
    """A grid that shows a strategy the drawn nodes only; everything else is done by the grid of the app."""

    def __init__(self, grid: Grid, node_ids: list[int]):
        self._grid, self._node_ids = grid, node_ids

    def get_node_ids(self) -> Iterable[int]:
        """The drawn nodes."""
        return list(self._node_ids)

    def set_run(self, run) -> None:
        """See Grid."""
        self._grid.set_run(run)

    @property
    def run(self):
        """See Grid."""
        return self._grid.run

    def create_message(self, *args, **options) -> Message:
        """See Grid."""
        return self._grid.create_message(*args, **options)

    def push_messages(self, messages) -> Iterable[str]:
        """See Grid."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids) -> Iterable[Message]:
        """See Grid."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages, *, timeout=None) -> Iterable[Message]:
        """See Grid."""
        return self._grid.send_and_receive(messages, timeout=timeout)


@dataclass
class Collected:
    """replies: part -> message that can be used. failed: part -> what is wrong. received: bytes of all arrays."""

    replies: dict[int, Message] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    received: int = 0


def collect(grid: Grid, messages: dict[int, Message], timeout: float, check, lost: Callable[[], set]) -> Collected:
    """Send the messages (part -> message) and wait for the replies, at most `timeout` seconds.

    check(reply): raises BadWeights for a reply that cannot be used. lost(): the parts whose client has ended.
    """
    parts, found = list(messages), Collected()
    waiting = {}
    for part, name in zip(parts, grid.push_messages([messages[part] for part in parts]), strict=True):
        if name is None:
            found.failed[part] = "its node is not connected"
        else:
            waiting[name] = part
    end = time.monotonic() + timeout
    while waiting and time.monotonic() < end:
        for reply in grid.pull_messages(list(waiting)):
            _take(waiting.pop(reply.metadata.reply_to_message_id), reply, check, found)
        gone = lost()
        for name in [name for name, part in waiting.items() if part in gone]:
            found.failed[waiting.pop(name)] = "its process has ended"
        if waiting:
            time.sleep(SECONDS_BETWEEN_LOOKS)
    found.failed |= dict.fromkeys(waiting.values(), f"it has not answered within {timeout:g} seconds")
    return found


def _take(part: int, reply: Message, check, found: Collected) -> None:
    if reply.has_error():
        found.failed[part] = " ".join(reply.error.reason.split()) or f"error {reply.error.code}"
        return
    found.received += payload(reply)
    try:
        check(reply)
    except BadWeights as error:
        found.failed[part] = str(error)
    else:
        found.replies[part] = reply


def payload(message: Message) -> int:
    """Bytes of all arrays of a packed message, as Flower serialises them."""
    return sum(len(array.data) for record in message.content.array_records.values() for array in record.values())


def arrays_of(message: Message) -> Arrays:
    """The arrays of an unpacked message."""
    return {name: array.numpy() for name, array in message.content[ARRAYS].items()}


def check_reply(message: Message, wanted: Arrays) -> None:
    """Unpack the reply to a training. Raises BadWeights unless it has weights like `wanted`, and ANSWERED."""
    message.content = unpack(message.content)
    check_arrays(arrays_of(message), wanted)
    metrics = message.content.get(METRICS)
    if not isinstance(metrics, MetricRecord) or set(metrics) != set(ANSWERED):
        raise BadWeights(f"its reply must hold the numbers {', '.join(ANSWERED)}")
    for name in ANSWERED:
        value = metrics[name]
        if isinstance(value, list) or not 0 <= value < float("inf") or (name == "num-examples" and value == 0):
            raise BadWeights(f"{name} is {value}")
