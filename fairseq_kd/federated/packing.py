"""All weights of a message in one array, because Flower needs two requests per array on each of its connections.

Strategies see one array per name: a message is packed just before it is sent, and unpacked when it has arrived.
"""

import json
import math
from zipfile import BadZipFile

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fairseq_kd.federated.arrays import Arrays, BadWeights

ARRAYS, LAYOUT = "arrays", "layout"
PACKED = "packed"  # in both records: the weights one after the other in float32; their names and shapes as JSON


def pack(content: RecordDict) -> RecordDict:
    """A content with the same records, and the arrays of ARRAYS in one."""
    values = {name: array.numpy() for name, array in content[ARRAYS].items()}
    return packed(values, {name: record for name, record in content.items() if name != ARRAYS})


def packed(arrays: Arrays, records: dict) -> RecordDict:
    """A content of the arrays in one, and the records."""
    layout = json.dumps([(name, value.shape) for name, value in arrays.items()])
    values = np.concatenate([np.empty(0, np.float32), *(value.ravel() for value in arrays.values())], dtype=np.float32)
    mine = {ARRAYS: ArrayRecord({PACKED: Array(values)}), LAYOUT: ConfigRecord({PACKED: layout})}
    return RecordDict(mine | records)


def unpack(content: RecordDict) -> RecordDict:
    """The content before `pack`. Raises BadWeights for arrays and a layout that do not fit."""
    try:
        values, layout = content[ARRAYS][PACKED].numpy(), json.loads(content[LAYOUT][PACKED])
        sizes = [math.prod(shape) for _, shape in layout]
        if values.ndim != 1 or sum(sizes) != len(values):
            raise ValueError(f"{sum(sizes)} values are named, and {values.shape} were sent")
        pieces = np.split(values, np.cumsum(sizes)[:-1])
        found = {name: piece.reshape(shape) for (name, shape), piece in zip(layout, pieces, strict=True)}
        record = ArrayRecord({name: Array(value) for name, value in found.items()})
    except (KeyError, TypeError, ValueError, AttributeError, OSError, EOFError, MemoryError, BadZipFile) as error:
        raise BadWeights(f"its weights cannot be read ({type(error).__name__}: {error})") from error
    return RecordDict({name: each for name, each in content.items() if name != LAYOUT} | {ARRAYS: record})
