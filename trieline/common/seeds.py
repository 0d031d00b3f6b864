"""Seeds that follow from what they are for."""

import hashlib


def derived_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that depends on all parts and is the same on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
