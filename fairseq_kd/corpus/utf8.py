"""A check of UTF-8 that is several times faster than decoding, for most of what is written."""

import numpy as np

UNCOMMON = b"\xc0\xc1\xe0\xed"  # two that never occur, and two that do not go with every second byte
FOUR_BYTES = 0xF0  # from here on, first bytes of characters of four bytes, or of none


def is_common_utf8(text: bytes) -> bool:
    """True: UTF-8. False: not UTF-8, or with characters that make it worth decoding to be sure.

    text: with a newline at its end.
    """
    data = np.frombuffer(text, np.uint8)
    if data.max() >= FOUR_BYTES or any(byte in text for byte in UNCOMMON):
        return False
    is_later = data.view(np.int8) < -0x40  # 80 to BF
    later_must_follow = data >= 0xC0
    later_must_follow[1:] |= data[:-1] >= 0xE0
    return not is_later[0] and np.array_equal(later_must_follow[:-1], is_later[1:])
