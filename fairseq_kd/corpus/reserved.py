"""Reserved tokens: entries at the end of both dictionaries that no text becomes.

`fairseq-kd decode --back --tag` writes one of them at the beginning of back-translated sources, and noise leaves them
as they are. Their names are the entry "reserved" of the manifest.
"""

from pathlib import Path

from fairseq_kd.artifacts.data_bin_check import read_dictionary
from fairseq_kd.core.errors import KDError

KNOWN = ("<BT>", "<FT>")  # back-translated, forward-translated


def reserved_names(count: int) -> list[str]:
    """The names of `count` reserved tokens: <BT>, <FT>, <R3>, <R4>, and so on."""
    return [*KNOWN, *(f"<R{number}>" for number in range(len(KNOWN) + 1, count + 1))][:count]


def reserve(folder, languages: tuple[str, str], count: int) -> list[str]:
    """Add `count` reserved tokens to the dictionaries in `folder`; return their names.

    The ids of all other entries stay. Raises KDError when a token of the text has one of the names.
    """
    names = reserved_names(count)
    for lang in languages:
        path = Path(folder) / f"dict.{lang}.txt"
        dictionary = read_dictionary(path)
        if taken := [name for name in names if name in dictionary.indices]:
            raise KDError(
                f"--reserve {count}: the training text holds {taken[0]} as a token, so that text could not be told "
                "from the reserved token: write it in another way in the text"
            )
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{name} 0\n" for name in names)
    return names
