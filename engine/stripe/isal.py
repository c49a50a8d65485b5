"""The functions of Intel's ISA-L that encode, called through ctypes.

The library is called with the GIL held: a whole stripe takes a fraction of a millisecond, and letting go of the GIL
would let a busy thread keep it for a switch interval (5 ms).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from siltstone.engine.stripe.gf256 import Matrix
from siltstone.types import Buffer

LIBRARY = "libisal.so.2"

_TABLE_BYTES = 32
"""ISA-L expands every coefficient to this much."""


_WRITABLE = 1
"""PyBUF_WRITABLE."""


class _View(ctypes.Structure):
    """Py_buffer of CPython's buffer protocol: the address of any bytes-like object, without a copy."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_VIEW_BYTES = ctypes.sizeof(_View)

_python = ctypes.PyDLL(None)
_get_buffer = _python["PyObject_GetBuffer"]
_get_buffer.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
_get_buffer.restype = ctypes.c_int
_release_buffer = _python["PyBuffer_Release"]
_release_buffer.argtypes = (ctypes.c_void_p,)
_release_buffer.restype = None
_new_bytes = _python["PyBytes_FromStringAndSize"]
_new_bytes.argtypes = (ctypes.c_char_p, ctypes.c_ssize_t)
_new_bytes.restype = ctypes.py_object
_bytes_address = _python["PyBytes_AsString"]
_bytes_address.argtypes = (ctypes.py_object,)
_bytes_address.restype = ctypes.c_void_p


class Isal:
    """Matrix times units, over GF(2^8) with 0x11d."""

    def __init__(self, library: ctypes.PyDLL) -> None:
        self._init_tables = library["ec_init_tables"]
        self._init_tables.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)
        self._init_tables.restype = None
        self._encode_data = library["ec_encode_data"]
        self._encode_data.argtypes = (ctypes.c_int,) * 3 + (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)
        self._encode_data.restype = None
        self._update = library["ec_encode_data_update"]
        self._update.argtypes = (ctypes.c_int,) * 4 + (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)
        self._update.restype = None

    def tables(self, matrix: Matrix) -> bytes:
        """The matrix in the form that ``apply`` takes."""
        rows, columns = len(matrix), len(matrix[0])
        tables = ctypes.create_string_buffer(_TABLE_BYTES * rows * columns)
        self._init_tables(columns, rows, b"".join(matrix), tables)
        return tables.raw

    def apply(self, tables: bytes, units: Sequence[Buffer], rows: int) -> list[bytes]:
        """The product of a matrix of ``rows`` rows with ``units``, which have one length and are contiguous.

        The results are written once, straight into the bytes objects that are returned.
        """
        count = len(units)
        assert len(tables) == _TABLE_BYTES * rows * count
        views = (_View * count)()
        address = ctypes.addressof(views)
        held = 0
        try:
            for index, unit in enumerate(units):
                _get_buffer(unit, address + index * _VIEW_BYTES, 0)  # raises BufferError by itself
                held += 1
            size: int = views[0].len
            assert size > 1, "a bytes object of one byte is shared by the whole interpreter"
            assert all(view.len == size for view in views)
            sources = (ctypes.c_void_p * count)(*[view.buf for view in views])
            # A bytes object that nobody else has seen yet may be filled (CPython's documented use of a NULL source).
            results: list[bytes] = [_new_bytes(None, size) for _ in range(rows)]
            targets = (ctypes.c_void_p * rows)(*[_bytes_address(result) for result in results])
            self._encode_data(size, count, rows, tables, sources, targets)
        finally:
            for index in range(held):
                _release_buffer(address + index * _VIEW_BYTES)
        return results

    def update(self, tables: bytes, columns: int, column: int, delta: Buffer, targets: Sequence[Buffer]) -> None:
        """Add one column of a matrix of so many columns, times ``delta``, to the targets, which are changed in place
        and as long as it. They must be writable."""
        rows = len(targets)
        assert len(tables) == _TABLE_BYTES * rows * columns and 0 <= column < columns
        views = (_View * (rows + 1))()
        address = ctypes.addressof(views)
        held = 0
        try:
            for index, buffer in enumerate((delta, *targets)):
                _get_buffer(buffer, address + index * _VIEW_BYTES, _WRITABLE if index else 0)
                held += 1
            size: int = views[0].len
            assert all(view.len == size for view in views)
            pointers = (ctypes.c_void_p * rows)(*[view.buf for view in views[1:]])
            self._update(size, columns, rows, column, tables, views[0].buf, pointers)
        finally:
            for index in range(held):
                _release_buffer(address + index * _VIEW_BYTES)


def load_isal() -> Isal | None:
    """The library, or None where it is not installed."""
    try:
        return Isal(ctypes.PyDLL(LIBRARY))
    except (OSError, AttributeError):
        return None
