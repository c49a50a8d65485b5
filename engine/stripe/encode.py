"""From the bytes of a stripe to its units and checksums. Pure; may run in a worker thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from siltstone.engine.stripe.checksum import checksums_of
from siltstone.engine.stripe.codec import codec_for
from siltstone.types import Buffer


class EncodedStripe(NamedTuple):
    """The units of a stripe, data and parity, and their checksums."""

    units: list[Buffer]
    checksums: bytes


def cut_into_units(buffers: Sequence[Buffer], data_units: int, unit_bytes: int) -> list[Buffer]:
    """Data units from buffers that follow each other, zeros behind them.

    A unit that lies in one buffer is a view of it; any other is joined, once.
    """
    pieces: list[list[Buffer]] = [[] for _ in range(data_units)]
    end = 0
    for buffer in buffers:
        view = memoryview(buffer)
        at = 0
        while at < len(view):
            unit, inner = divmod(end, unit_bytes)
            step = min(len(view) - at, unit_bytes - inner)
            pieces[unit].append(view[at : at + step])
            at += step
            end += step
    units: list[Buffer] = []
    for index, parts in enumerate(pieces):
        missing = min(unit_bytes, max(0, (index + 1) * unit_bytes - end))
        if missing:
            parts.append(bytes(missing))
        units.append(parts[0] if len(parts) == 1 else b"".join(parts))
    return units


def cut_out(buffers: Sequence[Buffer], start: int, size: int) -> list[Buffer]:
    """Bytes [start, start + size) of buffers that follow each other, as views of them."""
    found: list[Buffer] = []
    end = start + size
    at = 0
    for buffer in buffers:
        low, high = max(start - at, 0), min(end - at, len(buffer))
        if low < high:
            found.append(memoryview(buffer)[low:high])
        at += len(buffer)
        if at >= end:
            break
    return found


class StripeSource(NamedTuple):
    """What is to become a stripe."""

    buffers: Sequence[Buffer]
    unit_bytes: int


def encode_together(sources: Sequence[StripeSource], data_units: int, parity_units: int) -> list[EncodedStripe]:
    """Encode many short stripes by one call of the codec: a code works byte by byte, so that their units may simply
    follow each other. Copies the data once."""
    pieces = [cut_into_units(source.buffers, data_units, source.unit_bytes) for source in sources]
    columns: list[Buffer] = [b"".join([units[unit] for units in pieces]) for unit in range(data_units)]
    columns += codec_for(data_units, parity_units).encode(columns)
    views = [memoryview(column) for column in columns]
    encoded: list[EncodedStripe] = []
    at = 0
    for source in sources:
        units: list[Buffer] = [view[at : at + source.unit_bytes] for view in views]
        at += source.unit_bytes
        encoded.append(EncodedStripe(units, checksums_of(units)))
    return encoded


def encode_stripe(buffers: Sequence[Buffer], data_units: int, parity_units: int, unit_bytes: int) -> EncodedStripe:
    """Cut, encode and hash one stripe."""
    data = cut_into_units(buffers, data_units, unit_bytes)
    units = [*data, *codec_for(data_units, parity_units).encode(data)]
    return EncodedStripe(units, checksums_of(units))
