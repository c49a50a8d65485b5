"""Arithmetic in GF(2^8) with the polynomial 0x11d, as far as decoding needs it: small matrices, inverted once. Pure.

The field is the one of zfec and ISA-L. Bytes of units never pass through here: only coefficients do.
"""

from __future__ import annotations

from collections.abc import Sequence

POLYNOMIAL = 0x11D
"""x^8 + x^4 + x^3 + x^2 + 1; 2 generates the field's multiplicative group."""

Matrix = Sequence[bytes]
"""Rows of coefficients."""


def _powers() -> tuple[bytes, bytes]:
    power = bytearray(510)
    logarithm = bytearray(256)
    value = 1
    for exponent in range(255):
        power[exponent] = power[exponent + 255] = value
        logarithm[value] = exponent
        value <<= 1
        if value & 0x100:
            value ^= POLYNOMIAL
    assert value == 1, "2 must have order 255"
    return bytes(power), bytes(logarithm)


_POWER, _LOGARITHM = _powers()


def multiply(a: int, b: int) -> int:
    """The product of two field elements."""
    return _POWER[_LOGARITHM[a] + _LOGARITHM[b]] if a and b else 0


def reciprocal(a: int) -> int:
    """The inverse of a field element other than 0."""
    assert a, "0 has no inverse"
    return _POWER[255 - _LOGARITHM[a]]


def identity(size: int) -> list[bytes]:
    """The identity matrix."""
    return [bytes(1 if column == row else 0 for column in range(size)) for row in range(size)]


def multiply_row(row: bytes, matrix: Matrix) -> bytes:
    """The row vector ``row`` times ``matrix``."""
    assert len(row) == len(matrix)
    result = bytearray(len(matrix[0]))
    for factor, line in zip(row, matrix, strict=True):
        for column, value in enumerate(line):
            result[column] ^= multiply(factor, value)
    return bytes(result)


def invert(matrix: Matrix) -> list[bytes]:
    """The inverse of a square matrix, by Gauss-Jordan elimination; the matrix must be regular."""
    size = len(matrix)
    assert all(len(row) == size for row in matrix)
    rows = [bytearray(row) + unit for row, unit in zip(matrix, identity(size), strict=True)]
    for column in range(size):
        pivot = next((index for index in range(column, size) if rows[index][column]), None)
        assert pivot is not None, "any k rows of the generator matrix are independent"
        rows[column], rows[pivot] = rows[pivot], rows[column]
        scale = reciprocal(rows[column][column])
        rows[column] = bytearray(multiply(scale, value) for value in rows[column])
        for index in range(size):
            factor = rows[index][column]
            if index != column and factor:
                rows[index] = bytearray(
                    value ^ multiply(factor, other) for value, other in zip(rows[index], rows[column], strict=True)
                )
    return [bytes(row[size:]) for row in rows]
