"""Systematic Reed-Solomon over GF(2^8): k data units to m parity units, and back from any k of the k+m.

zfec defines the code: its generator matrix is the on-disk format (docs/formats/slab.md). ISA-L computes the same bytes
20 to 40 times faster and is used when it loads; its matrix is read off zfec by encoding unit vectors, so there is
nothing to keep in step. A property test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import zfec  # type: ignore[import-untyped]

from siltstone.engine.stripe.gf256 import identity, invert, multiply_row
from siltstone.engine.stripe.isal import Isal, load_isal
from siltstone.limits import KIB, UNITS_MAX
from siltstone.ports import Workers
from siltstone.types import Buffer

T = TypeVar("T")

ISAL = load_isal()

_ZFEC_INLINE_BYTES_MAX = 64 * KIB
"""zfec takes about 0.1 ms for this much, as long as a hop to a thread and back."""

_PATTERNS_MAX = 256
"""Erasure patterns whose inverted matrix is remembered, for each code. One disk lost leaves about 2 * (k+m)."""


class Codec:
    """The code k+m. Units of one call have one length, at least 2 bytes."""

    def __init__(self, data_units: int, parity_units: int, *, isal: Isal | None = ISAL) -> None:
        k, m = data_units, parity_units
        assert k >= 1 and m >= 0 and k + m <= UNITS_MAX
        self.data_units = k
        self.parity_units = m
        self._isal = isal
        self._parity_numbers = list(range(k, k + m))
        self._zfec_encoder = zfec.Encoder(k, k + m)
        self._zfec_decoder = zfec.Decoder(k, k + m)
        self._generator = identity(k)
        if m:
            self._generator += [bytes(row) for row in self._zfec_encoder.encode(identity(k), self._parity_numbers)]
        if isal is not None and m:
            self._encode_tables = isal.tables(self._generator[k:])
            self._decode_tables = lru_cache(maxsize=_PATTERNS_MAX)(self._make_decode_tables)

    @property
    def codec_name(self) -> str:
        """What computes: "isa-l" or "zfec"."""
        return "zfec" if self._isal is None else "isa-l"

    def is_instant(self, size: int) -> bool:
        """Whether ``size`` bytes may be encoded or decoded in the loop; otherwise that belongs in Workers."""
        return self._isal is not None or size <= _ZFEC_INLINE_BYTES_MAX

    async def run(self, workers: Workers, size: int, function: Callable[..., T], *arguments: object) -> T:
        """What ``function(*arguments)``, which encodes or decodes ``size`` bytes of data, returns: computed at once if
        that is instant, otherwise elsewhere."""
        if self.is_instant(size):
            return function(*arguments)
        return await workers.run(function, *arguments)

    def encode(self, units: Sequence[Buffer]) -> list[bytes]:
        """The m parity units of k data units."""
        assert len(units) == self.data_units
        assert len({len(unit) for unit in units}) == 1
        if not self.parity_units:
            return []
        if self._isal is not None:
            return self._isal.apply(self._encode_tables, units, self.parity_units)
        return [bytes(unit) for unit in self._zfec_encoder.encode(units, self._parity_numbers)]

    def update(self, unit: int, delta: Buffer, parity: Sequence[bytearray | memoryview]) -> None:
        """Change parity units in place as if ``delta`` were added (xor) to data unit ``unit``: what a new encoding of
        all data would give. All have one length, at least 2 bytes."""
        assert 0 <= unit < self.data_units and len(parity) == self.parity_units
        if not parity:
            return
        if self._isal is not None:
            self._isal.update(self._encode_tables, self.data_units, unit, delta, parity)
            return
        nothing = bytes(len(delta))
        units = [delta if index == unit else nothing for index in range(self.data_units)]
        for target, change in zip(parity, self.encode(units), strict=True):
            target[:] = xor(target, change)

    def reconstruct(self, available: Mapping[int, Buffer], wanted: Sequence[int]) -> dict[int, bytes]:
        """The units numbered ``wanted`` from at least k others.

        ``available`` maps unit numbers (0 ... k-1 data, k ... k+m-1 parity) to units that are known to be right; k of
        them are used. Cutting all units to the same range gives the same range of the wanted ones.
        """
        k = self.data_units
        sources = sorted(available)[:k]  # data units first: those are rows of the identity
        assert len(sources) == k, "k units are needed to reconstruct"
        assert all(0 <= unit < k + self.parity_units for unit in [*available, *wanted])
        if not wanted:
            return {}
        if self._isal is not None and self.parity_units:
            tables = self._decode_tables(tuple(sources), tuple(wanted))
            rebuilt = self._isal.apply(tables, [available[unit] for unit in sources], len(wanted))
            return dict(zip(wanted, rebuilt, strict=True))
        return self._reconstruct_by_zfec({unit: available[unit] for unit in sources}, wanted)

    def _make_decode_tables(self, sources: tuple[int, ...], wanted: tuple[int, ...]) -> bytes:
        assert self._isal is not None
        inverse = invert([self._generator[unit] for unit in sources])
        return self._isal.tables([multiply_row(self._generator[unit], inverse) for unit in wanted])

    def _reconstruct_by_zfec(self, available: Mapping[int, Buffer], wanted: Sequence[int]) -> dict[int, bytes]:
        data = self._zfec_decoder.decode(list(available.values()), list(available))
        parity = [unit for unit in wanted if unit >= self.data_units]
        rebuilt = dict(zip(parity, self._zfec_encoder.encode(data, parity), strict=True)) if parity else {}
        return {unit: bytes(data[unit] if unit < self.data_units else rebuilt[unit]) for unit in wanted}


def xor(one: Buffer, other: Buffer) -> bytes:
    """The sum of two units of one length."""
    assert len(one) == len(other)
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).to_bytes(len(one), "little")


@lru_cache(maxsize=UNITS_MAX * 4)
def codec_for(data_units: int, parity_units: int) -> Codec:
    """The shared codec of a code."""
    return Codec(data_units, parity_units)
