"""What a checkpoint may hold, judged before fairseq sees any of it.

    file -> check_file      names in its pickles, sizes of its records: before anything is made
         -> torch.load      weights only
         -> check_options   value types and number of the options that fairseq will read
         -> check_weights   no tensor larger than what is stored of it

Each raises `Refused` with the reason. The lists say what is allowed, not what is forbidden.
"""

import argparse
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from pickle import UnpicklingError

import torch

from fairseq_kd.checkpoint_types import SAFE_TYPES

MAX_OPTIONS = 20_000  # values inside "cfg" or "args", counted each time that they appear
MAX_DEPTH = 16
MAX_TEXT = 100_000  # characters of one option
LEGACY_PICKLES = 5  # at the beginning of a file of torch < 1.6

SCALARS = (type(None), bool, int, float)
PICKLED_NAMES = {
    *("collections.OrderedDict", "collections.Counter", "builtins.set", "_codecs.encode"),
    *("torch.Size", "torch.nn.parameter.Parameter", "torch._utils._rebuild_parameter"),
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"),
    *(f"torch.{kind.__name__}" for kind in torch._storage_classes),
    *(f"torch.storage.{kind.__name__}" for kind in torch._storage_classes),
    *(f"{one.__module__}.{one.__qualname__}" if isinstance(one, type) else one[1] for one in SAFE_TYPES),
}
# names that are put together while the pickle is read; torch does not read these either
OPCODES_OF_OTHER_NAMES = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}


class Refused(Exception):
    """Why a file is refused: the end of a sentence that begins with the file's name."""


def check_file(path) -> None:
    """Judge the pickles and the records of a file, none of which is made.

    Raises Refused; UnpicklingError in torch's own words for a name that is not allowed; ValueError or OSError for a
    damaged file.
    """
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            for _ in range(LEGACY_PICKLES):
                _check_pickle(file)
        return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise Refused("holds compressed records, which fairseq does not write")
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise Refused("says that its records are larger than the file")
        for record in records:
            if record.filename.endswith(".pkl"):
                with archive.open(record) as file:
                    _check_pickle(file)


def _check_pickle(file) -> None:
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in OPCODES_OF_OTHER_NAMES:
            raise ValueError(f"its pickle has the operation {opcode.name}, which is not known here")
        if opcode.name == "GLOBAL" and (name := _name_of_today(argument)) not in PICKLED_NAMES:
            raise UnpicklingError(f"GLOBAL {name} is not allowed")


def _name_of_today(argument: str) -> str:
    """ "module name" -> "module.name", where pickles of protocol 2 use the names of Python 2."""
    module, _, name = argument.partition(" ")
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def check_options(options, name: str) -> None:
    """Judge nested options: text, numbers, lists, tuples, dicts and namespaces of them.

    name: how they are called in messages. Raises Refused.
    """
    waiting, seen = [(name, options, 0)], 0
    while waiting:
        name, value, depth = waiting.pop()
        seen += 1
        if seen > MAX_OPTIONS or depth > MAX_DEPTH:
            raise Refused(f"has more than {MAX_OPTIONS:,} options, or options nested more than {MAX_DEPTH} deep")
        if type(value) is str:
            _check_text(name, value)
        elif type(value) not in SCALARS:
            waiting.extend((f"{name}.{key}", item, depth + 1) for key, item in _items(name, value))


def _items(name: str, value):
    """The (key, value) pairs of a container."""
    if type(value) is argparse.Namespace:
        value = vars(value)
    if type(value) in (dict, OrderedDict):
        for key in value:
            if type(key) not in (str, int):
                raise Refused(f"has a key of type {type(key).__name__} in {name}, which is no name of an option")
            _check_text(name, str(key))
        return value.items()
    if type(value) in (list, tuple):
        return enumerate(value)
    raise Refused(f"has the option {name} of type {type(value).__name__}; options are text, numbers and lists of them")


def _check_text(name: str, text: str) -> None:
    if len(text) > MAX_TEXT:
        raise Refused(f"has {len(text):,} characters in the option {name}")
    if "${" in text:
        raise Refused(
            f"has {text[:80]!r} in the option {name}: it would be replaced by something of the reader's environment"
        )


def check_weights(weights, file_size: int) -> None:
    """Judge the tensors of a model. file_size: of the checkpoint, in bytes. Raises Refused."""
    if not isinstance(weights, dict):
        raise Refused("has no weights")
    tensors = [value for value in weights.values() if isinstance(value, torch.Tensor)]
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    if sum(stored.values()) > file_size or any(
        tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes() for tensor in tensors
    ):
        raise Refused("says that its weights are larger than what it holds of them")
