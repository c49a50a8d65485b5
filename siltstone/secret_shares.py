"""A secret in shares, so many of which give it back, and fewer tell nothing of it (Shamir's scheme, in GF(2^8)). Pure.

A share is a byte ``threshold``, a byte ``place`` from 1 up, and a byte for each of the secret: polynomials of degree
``threshold`` - 1, whose values at 0 are the secret, at the place. Their other coefficients are derived from the secret
(SHAKE-256), which is as random as they should be: so all shares of one threshold go together, whenever they were made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from siltstone.engine.stripe.gf256 import multiply, reciprocal

PLACES_MAX = 255


def split(secret: bytes, *, threshold: int, places: Sequence[int]) -> list[bytes]:
    """A share for each place, of which any ``threshold`` of different places give the secret back. The secret is a key:
    nobody can guess it."""
    assert 1 <= threshold <= PLACES_MAX and all(1 <= place <= PLACES_MAX for place in places)
    coefficients = [secret, *(_coefficient(secret, threshold, power) for power in range(1, threshold))]
    return [bytes((threshold, place)) + _values(coefficients, place) for place in places]


def combine(shares: Iterable[bytes]) -> bytes | None:
    """The secret that shares of one threshold are of; None when they are too few, or do not fit each other."""
    found = {share[1]: share for share in shares if len(share) > 2}
    if not found:
        return None
    threshold, size = next(iter(found.values()))[0], len(next(iter(found.values())))
    if threshold < 1 or len(found) < threshold:
        return None
    if any(share[0] != threshold or len(share) != size for share in found.values()) or 0 in found:
        return None
    places = sorted(found)[:threshold]
    secret = bytearray(size - 2)
    for place in places:
        factor = 1
        for other in places:
            if other != place:
                factor = multiply(factor, multiply(other, reciprocal(other ^ place)))
        for index, value in enumerate(found[place][2:]):
            secret[index] ^= multiply(factor, value)
    return bytes(secret)


def _coefficient(secret: bytes, threshold: int, power: int) -> bytes:
    return hashlib.shake_256(b"siltstone share" + bytes((threshold, power)) + secret).digest(len(secret))


def _values(coefficients: list[bytes], place: int) -> bytes:
    result = bytearray(len(coefficients[0]))
    for line in reversed(coefficients):
        for index, value in enumerate(line):
            result[index] = multiply(result[index], place) ^ value
    return bytes(result)
