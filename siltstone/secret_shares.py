"""A secret in shares, so many of which give it back, and fewer tell nothing of it (Shamir's scheme, in GF(2^8)). Pure
but for the randomness that is handed in.

A share is a byte ``threshold``, a byte ``place`` from 1 up, and a byte for each of the secret: polynomials of degree
``threshold`` - 1 with random coefficients, whose values at 0 are the secret, at the place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from siltstone.engine.stripe.gf256 import multiply, reciprocal

SHARES_MAX = 255


def split(secret: bytes, *, threshold: int, count: int, random: Callable[[int], bytes]) -> list[bytes]:
    """``count`` shares of a secret, any ``threshold`` of which give it back."""
    assert 1 <= threshold <= count <= SHARES_MAX
    coefficients = [secret, *(random(len(secret)) for _ in range(threshold - 1))]
    return [bytes((threshold, place)) + _values(coefficients, place) for place in range(1, count + 1)]


def combine(shares: Iterable[bytes]) -> bytes | None:
    """The secret that shares of one splitting are of; None when they are too few, or do not fit each other."""
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


def _values(coefficients: list[bytes], place: int) -> bytes:
    result = bytearray(len(coefficients[0]))
    for line in reversed(coefficients):
        for index, value in enumerate(line):
            result[index] = multiply(result[index], place) ^ value
    return bytes(result)
