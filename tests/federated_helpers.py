"""Parts of a data-bin, a spec of tiny models, and a grid in this process, for tests of federated runs."""

import copy
import shutil
from pathlib import Path

import numpy as np
import yaml

from fairseq_kd.federated.packing import ARRAYS, pack, unpack

LANGUAGES = ("qaa", "qab")
TINY = {
    "arch": "transformer",
    **{f"{side}-layers": 1 for side in ("encoder", "decoder")},
    **{f"{side}-embed-dim": 16 for side in ("encoder", "decoder")},
    **{f"{side}-ffn-embed-dim": 32 for side in ("encoder", "decoder")},
    **{f"{side}-attention-heads": 2 for side in ("encoder", "decoder")},
    **{"share-all-embeddings": True, "dropout": 0.1, "label-smoothing": 0.1, "max-tokens": 400},
    **{"optimizer": "adam", "lr": 0.01, "lr-scheduler": "inverse_sqrt", "warmup-updates": 4},
}
SHORT = {"beam": 1, "max-len-b": 10}


def write_parts(data_bin, folder: Path, groups) -> list[Path]:
    """folder/part1, ...: data-bins with the training sentences of each group, in their order."""
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    from fairseq_kd.inference.opening import open_data

    task, made = open_data(data_bin, LANGUAGES, "train"), []
    dataset = task.dataset("train")
    for number, group in enumerate(groups, start=1):
        part = folder / f"part{number}"
        part.mkdir(parents=True)
        for path in Path(data_bin).iterdir():
            if path.name.startswith(("dict.", "valid.", "test.")):
                shutil.copyfile(path, part / path.name)
        for side, lang in ((dataset.src, LANGUAGES[0]), (dataset.tgt, LANGUAGES[1])):
            prefix = part / f"train.{'-'.join(LANGUAGES)}.{lang}"
            builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
            for sentence in group:
                builder.add_item(side[sentence])
            builder.finalize(f"{prefix}.idx")
        made.append(part)
    return made


def write_spec(path: Path, data_bin, parts, **keys) -> Path:
    """A spec of tiny models."""
    parts = [str(part) for part in parts] if isinstance(parts, list) else parts
    values = {"parts": parts, "data": str(data_bin), "student": TINY, "evaluate": SHORT}
    path.write_text(yaml.safe_dump(values | keys))
    return path


class LocalGrid:
    """A grid whose nodes answer in this process. answer(part, message) -> the reply, or None for no reply.

    A node gets its weights one array per name, and answers so. Between server and node they are packed.

    The node of part N has the id 100 - N, so that the order of ids is not that of the parts.
    """

    def __init__(self, parts: int, answer):
        self._answer, self._replies = answer, {}
        self.nodes = {part: 100 - part for part in range(1, parts + 1)}
        self.asked = []

    def get_node_ids(self):
        return list(self.nodes.values())

    def push_messages(self, messages):
        names = []
        for message in messages:
            part = 100 - message.metadata.dst_node_id
            self.asked.append(part)
            message.metadata.__dict__["_message_id"] = name = f"message {len(self.asked)}"  # as flwr's HttpGrid does
            message = copy.deepcopy(message)
            if ARRAYS in message.content:
                message.content = unpack(message.content)
            if (reply := self._answer(part, message)) is not None:
                if reply.has_content() and ARRAYS in reply.content:
                    reply.content = pack(reply.content)
                self._replies[name] = reply
            names.append(name)
        return names

    def pull_messages(self, names):
        return [self._replies.pop(name) for name in names if name in self._replies]
