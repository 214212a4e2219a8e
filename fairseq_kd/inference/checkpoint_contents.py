"""Check what a checkpoint contains before fairseq uses any of it.

    file -> check_file      names in its pickles, sizes of its records: before any object is created
         -> torch.load      weights only
         -> check_options, check_old_options    value types and number of the options that fairseq will read
         -> check_weights   no tensor is larger than its stored data

Each raises `Refused` with the reason. The lists say what is allowed, not what is forbidden.
"""

import argparse
import re
import zipfile
from collections import OrderedDict

import torch

from fairseq_kd.inference.pickles import check_pickle

MAX_OPTIONS = 20_000  # values inside "cfg" or "args"; a value counts each time it appears
MAX_DEPTH = 16
MAX_SIZE = 10**6  # largest number in SIZES options: fairseq loops over them in Python, which `Budget` does not see
SIZES = re.compile("layers|heads|dim|kernel")
MAX_TEXT = 100_000  # characters of one option
LEGACY_PICKLES = 5  # a file of torch < 1.6 begins with this number of pickles

NESTED = ("langtoks", "extra_data", "extra_lang_pairs", "sampling_weights")  # of a multilingual task; not converted

SCALARS = (type(None), bool, int, float)


class Refused(Exception):
    """The reason why a file is refused. Its text continues a sentence that begins with the file's name."""


def check_file(path) -> None:
    """Check the pickles and the records of a file without creating any object of them.

    Raises Refused; UnpicklingError in torch's own words for a name that is not allowed; ValueError or OSError for a
    damaged file.
    """
    with open(path, "rb") as file:
        is_archive = file.read(4) == b"PK\3\4"  # as torch decides
        if is_archive != zipfile.is_zipfile(path):
            raise ValueError("its beginning and its end are of different formats")
        if not is_archive:
            file.seek(0)
            for _ in range(LEGACY_PICKLES):
                check_pickle(file)
            return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = {record.filename.lower() for record in records}  # torch ignores upper and lower case
        if archive.comment or len(names) != len(records) or min(record.header_offset for record in records) != 0:
            raise ValueError("its list of records can be read in two ways")
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise Refused("holds compressed records, which fairseq does not write")
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise Refused("says that its records are larger than the file")
        for record in records:
            if record.filename.lower().endswith(".pkl"):
                with archive.open(record) as file:
                    check_pickle(file)


def check_options(options, name: str) -> None:
    """Check nested options: text, numbers, and lists, tuples, dicts and namespaces of them.

    name: the name of the options in error messages. Raises Refused.
    """
    waiting, seen = [(name, options, 0)], 0
    while waiting:
        name, value, depth = waiting.pop()
        seen += 1
        if seen > MAX_OPTIONS or depth > MAX_DEPTH:
            raise Refused(f"has more than {MAX_OPTIONS:,} options, or options nested more than {MAX_DEPTH} deep")
        if type(value) is str:
            _check_text(name, value)
        elif type(value) is int and value > MAX_SIZE and SIZES.search(name.rpartition(".")[2]):
            raise Refused(f"has {value} in the option {name}, which no model has")
        elif type(value) not in SCALARS:
            waiting.extend((f"{name}.{key}", item, depth + 1) for key, item in _items(name, value))


def _items(name: str, value):
    """The (key, value) pairs of a container."""
    if type(value) is argparse.Namespace:
        value = vars(value)
    if type(value) in (dict, OrderedDict):
        for key in value:
            if type(key) not in (str, int):
                raise Refused(f"has a key of type {type(key).__name__} in {name}, which is not the name of an option")
            _check_text(name, str(key))
        return value.items()
    if type(value) in (list, tuple):
        return enumerate(value)
    raise Refused(f"has the option {name} of type {type(value).__name__}; options are text, numbers and lists of them")


def _check_text(name: str, text: str) -> None:
    if len(text) > MAX_TEXT:
        raise Refused(f"has {len(text):,} characters in the option {name}")
    if "${" in text:
        raise Refused(f"has {text[:80]!r} in the option {name}: a value from the reader's environment would replace it")


def check_old_options(args) -> None:
    """Check the options of the old layout, which fairseq converts to the new layout through text.

    Raises Refused for a value that would change its meaning in that text.
    """
    from fairseq.registry import REGISTRIES

    if args is None:
        return
    if type(args) is not argparse.Namespace:
        raise Refused(f"has args of type {type(args).__name__}")
    check_options(args, "args")
    for name, value in vars(args).items():
        if type(value) in (argparse.Namespace, dict, OrderedDict) and name not in NESTED:
            raise Refused(f"has the option args.{name} of type {type(value).__name__}; options of that layout are flat")
        if name in REGISTRIES and not (value is None or re.fullmatch(r"[\w-]*", str(value))):
            raise Refused(f"has {str(value)[:80]!r} in the option args.{name}, which is not a name")
        texts = value if isinstance(value, (list, tuple)) else [value]
        for text in texts:
            if isinstance(text, str) and "\\" in text and ("'" in text or '"' in text):
                raise Refused(f"has {text[:80]!r} in the option args.{name}, which holds another text in disguise")


def check_weights(weights, file_size: int) -> None:
    """Check the tensors of a model. file_size: of the checkpoint, in bytes. Raises Refused."""
    if not isinstance(weights, dict):
        raise Refused("has no weights")
    tensors = [value for value in weights.values() if isinstance(value, torch.Tensor)]
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    if sum(stored.values()) > file_size or any(
        tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes() for tensor in tensors
    ):
        raise Refused("says that its weights are larger than the data in the file")
