"""ISA-L and zfec are one code, and any k units of a stripe are enough."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.engine.stripe import gf256
from siltstone.engine.stripe.codec import ISAL, Codec, xor

GOLDEN = Path(__file__).parents[3] / "golden"

codes = st.tuples(st.integers(1, 16), st.integers(1, 8))
sizes = st.one_of(st.integers(2, 300), st.sampled_from([512, 4095, 4096, 4097, 16384, 65536]))


def units_of(k: int, size: int, seed: int) -> list[bytes]:
    """Units that differ, from a small generator (xorshift) that does not depend on Python's."""
    state = seed * 2 + 1
    units = []
    for _ in range(k):
        words = bytearray()
        while len(words) < size:
            state ^= state << 13 & 0xFFFFFFFFFFFFFFFF
            state ^= state >> 7
            state ^= state << 17 & 0xFFFFFFFFFFFFFFFF
            words += state.to_bytes(8, "little")
        units.append(bytes(words[:size]))
    return units


def test_isal_is_installed_where_the_tests_run() -> None:
    assert ISAL is not None
    assert Codec(4, 2).codec_name == "isa-l"
    assert Codec(4, 2, isal=None).codec_name == "zfec"


@given(code=codes, size=sizes, seed=st.integers(0, 2**32))
@settings(max_examples=120, deadline=None)
def test_isal_and_zfec_make_the_same_parity(code: tuple[int, int], size: int, seed: int) -> None:
    k, m = code
    units = units_of(k, size, seed)
    assert Codec(k, m).encode(units) == Codec(k, m, isal=None).encode(units)


@given(code=codes, size=sizes, seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=120, deadline=None)
def test_any_k_units_rebuild_all_others_by_both(
    code: tuple[int, int], size: int, seed: int, data: st.DataObject
) -> None:
    k, m = code
    units = units_of(k, size, seed)
    every = [*units, *Codec(k, m).encode(units)]
    kept = data.draw(st.lists(st.integers(0, k + m - 1), min_size=k, max_size=k + m, unique=True))
    wanted = data.draw(st.permutations(range(k + m)))[: data.draw(st.integers(0, k + m))]
    available = {unit: every[unit] for unit in kept}
    expected = {unit: every[unit] for unit in wanted}
    assert Codec(k, m).reconstruct(available, wanted) == expected
    assert Codec(k, m, isal=None).reconstruct(available, wanted) == expected


@pytest.mark.parametrize(("k", "m"), [(4, 2), (2, 3)])
def test_every_erasure_pattern_is_mended(k: int, m: int) -> None:
    codec = Codec(k, m)
    units = units_of(k, 64, 7)
    every = [*units, *codec.encode(units)]
    for lost in combinations(range(k + m), m):
        available = {unit: every[unit] for unit in range(k + m) if unit not in lost}
        assert codec.reconstruct(available, lost) == {unit: every[unit] for unit in lost}


@pytest.mark.parametrize("isal", [ISAL, None])
def test_units_may_be_views_of_any_buffer_and_are_not_changed(isal: object) -> None:
    assert isal is ISAL or isal is None
    units = units_of(4, 5000, 1)
    whole = bytearray(b"".join(units))
    view = memoryview(whole)
    views = [view[index * 5000 : (index + 1) * 5000] for index in range(4)]
    codec = Codec(4, 2, isal=ISAL if isal is not None else None)
    parity = codec.encode(views)
    assert parity == Codec(4, 2).encode(units)
    assert whole == b"".join(units)
    assert codec.reconstruct({0: views[0], 2: views[2], 4: parity[0], 5: memoryview(parity[1])}, [1, 3]) == {
        1: units[1],
        3: units[3],
    }


def test_a_code_without_parity_encodes_to_nothing_and_reads_back() -> None:
    codec = Codec(3, 0)
    units = units_of(3, 100, 3)
    assert codec.encode(units) == []
    assert codec.reconstruct(dict(enumerate(units)), [1]) == {1: units[1]}


def test_units_of_different_length_are_our_bug() -> None:
    with pytest.raises(AssertionError):
        Codec(2, 1).encode([b"abcd", b"abc"])
    with pytest.raises(AssertionError):
        Codec(2, 1).reconstruct({0: b"abcd"}, [1])


@given(size=st.integers(1, 6), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_matrix_times_its_inverse_is_the_identity(size: int, data: st.DataObject) -> None:
    rows = data.draw(st.permutations(range(size + 6)))[:size]
    generator = Codec(size, 6)._generator
    matrix = [generator[row] for row in rows]
    inverse = gf256.invert(matrix)
    assert [gf256.multiply_row(row, inverse) for row in matrix] == gf256.identity(size)


@given(a=st.integers(0, 255), b=st.integers(0, 255), c=st.integers(0, 255))
def test_multiplication_distributes_and_has_reciprocals(a: int, b: int, c: int) -> None:
    assert gf256.multiply(a, b ^ c) == gf256.multiply(a, b) ^ gf256.multiply(a, c)
    assert a == 0 or gf256.multiply(a, gf256.reciprocal(a)) == 1


@pytest.mark.parametrize("name", ["parity-4+2.json", "parity-8+3.json"])
@pytest.mark.parametrize("isal", [ISAL, None], ids=["isa-l", "zfec"])
def test_golden_parity_of_format_version_1_is_still_made(name: str, isal: object) -> None:
    golden = json.loads((GOLDEN / name).read_text())
    k, m = golden["data_units"], golden["parity_units"]
    units = [bytes.fromhex(unit) for unit in golden["data"]]
    assert units == [bytes((37 * unit + 11 * index + 5) & 0xFF for index in range(64)) for unit in range(k)]
    codec = Codec(k, m, isal=ISAL if isal is not None else None)
    assert [unit.hex() for unit in codec.encode(units)] == golden["parity"]


@given(code=codes, size=sizes, seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=120, deadline=None)
def test_parity_changed_by_a_difference_is_that_of_a_new_encoding(
    code: tuple[int, int], size: int, seed: int, data: st.DataObject
) -> None:
    k, m = code
    units = units_of(k, size, seed)
    unit = data.draw(st.integers(0, k - 1))
    changed = list(units)
    changed[unit] = units_of(1, size, seed + 1)[0]
    expected = Codec(k, m).encode(changed)
    for codec in (Codec(k, m), Codec(k, m, isal=None)):
        parity = [bytearray(piece) for piece in codec.encode(units)]
        codec.update(unit, xor(units[unit], changed[unit]), parity)
        assert parity == expected
