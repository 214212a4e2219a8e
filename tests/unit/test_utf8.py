import random

import pytest

from fairseq_kd.corpus.files import UNCOMMON, is_common_utf8

LETTERS = ["a", " ", "\n", "\u00e9", "\u00a0", "\u07ff", "\u1000", "\u201c", "\u4e2d", "\ue000", "\uffff"]


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_common_text_is_known_without_decoding():
    assert is_common_utf8(("".join(LETTERS) * 3 + "\n").encode())
    for uncommon in ("\u0e01", "\ud7ff", "\U0001f600"):
        assert not is_common_utf8(f"{uncommon}\n".encode())


@pytest.mark.parametrize("seed", range(3))
def test_what_is_called_utf8_is_and_only_uncommon_text_is_left_to_be_decoded(seed):
    """Bytes that begin, continue and break characters, in every order."""
    rng = random.Random(seed)
    kinds = [b"a", b"\xc3", b"\xa4", b"\xe2", b"\x80", b"\xbf", b"\xc2", b"\xdf", b"\xef", b"\xf0", b"\xff", b"\n"]
    kinds += [bytes([byte]) for byte in UNCOMMON]
    for _ in range(20_000):
        text = b"".join(rng.choices(kinds, k=rng.randrange(7))) + b"\n"
        common = not any(byte in UNCOMMON or byte >= 0xF0 for byte in text)
        assert is_common_utf8(text) == (is_utf8(text) and common), text
