"""Frames that are nearly right: what a fuzzer makes of the corpus. Deterministic for a given `Random`."""

from random import Random

# Values at the edges of the fields that a filter reads: octets, 16-bit and 32-bit words.
OCTETS = (0, 1, 2, 4, 5, 6, 16, 17, 52, 53, 61, 67, 68, 127, 128, 131, 137, 224, 240, 254, 255)
WORDS = (
    0,
    1,
    2,
    20,
    27,
    28,
    53,
    67,
    68,
    0x0800,
    0x0806,
    0x86DD,
    0x8100,
    0x1FFF,
    0x2000,
    0x4000,
    0x8000,
    0xFFFF,
)
LONGS = (0, 0xFFFFFFFF, 0x7F000001, 0xC0A84001, 0xC0A84007, 0xC0A840FF, 0xE0000001, 0x63825363, 0x0A000001)
LENGTHS = (0, 1, 13, 14, 33, 34, 41, 42, 60, 282, 342)


def mutate(random: Random, frame: bytes, others: list[bytes]) -> bytes:
    """`frame` with one to four changes; `others` is what parts may be taken from."""
    changed = bytearray(frame)
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        at = random.randrange(len(changed)) if changed else 0
        kind = random.randrange(8)
        if kind == 0 and changed:
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 1 and changed:
            changed[at] = random.choice(OCTETS)
        elif kind == 2:
            changed[at : at + 2] = random.choice(WORDS).to_bytes(2, "big")
        elif kind == 3:
            changed[at : at + 4] = random.choice(LONGS).to_bytes(4, "big")
        elif kind == 4:
            del changed[at:]
        elif kind == 5:
            changed += random.randbytes(random.randrange(1, 40))
        elif kind == 6:
            part = random.choice(others)
            changed[at : at + random.randrange(12)] = part[at : at + random.randrange(12)]
        else:
            del changed[at : at + random.randrange(1, 9)]
    return bytes(changed)


def rubbish(random: Random) -> bytes:
    return random.randbytes(random.choice((*LENGTHS, random.randrange(1600))))
