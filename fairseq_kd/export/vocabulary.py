"""How a CTranslate2 model names the entries of a fairseq dictionary. CTranslate2 takes and gives names, never ids.

A dictionary can hold a symbol several times (`#fairseq:overwrite`), the special ones among them. A name that stands for
several entries means the first of them. So a model that people use has `symbols`, which text is made of, and a model
that only this package runs has `numbers`, each of which stands for one entry.
"""

SPECIAL = {"bos": "<s>", "pad": "<blank>", "eos": "</s>", "unk": "<unk>"}  # as CTranslate2 calls them


def symbols(dictionary) -> list[str]:
    """The dictionary's own symbols; padding is <blank>, unless the text has such a word."""
    names = list(dictionary.symbols)
    if SPECIAL["pad"] not in names:
        names[dictionary.pad()] = SPECIAL["pad"]
    return names


def numbers(dictionary) -> list[str]:
    """The id of each entry, in digits; the four special ones have their names."""
    names = [str(index) for index in range(len(dictionary))]
    for kind, name in SPECIAL.items():
        names[getattr(dictionary, kind)()] = name
    return names


def first_ids(names: list[str]) -> dict[str, int]:
    """Name -> the first entry that has it."""
    return {name: index for index, name in reversed(list(enumerate(names)))}
