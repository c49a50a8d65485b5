"""How fast are encoding, decoding and hashing, against ISA-L alone and against zfec?

Rates are of data bytes, on one core. `isal alone` calls the library on buffers prepared once; the ratio says what the
way from Python's buffers and back costs. `python bench/encode.py [--quick] [--json]`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable

from siltstone.engine.stripe.checksum import checksums_of
from siltstone.engine.stripe.codec import ISAL, Codec
from siltstone.limits import KIB, MIB


def rate(function: Callable[[], object], size: int, seconds: float) -> float:
    """Bytes per second of the best of several rounds."""
    function()
    start = time.perf_counter()
    function()
    count = max(1, int(seconds / 5 / max(1e-7, time.perf_counter() - start)))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            function()
        best = min(best, (time.perf_counter() - start) / count)
    return size / best


def isal_alone(codec: Codec, units: list[bytes]) -> Callable[[], object]:
    """The bare library call, on buffers that are prepared once."""
    assert ISAL is not None
    k, m, size = codec.data_units, codec.parity_units, len(units[0])
    tables = ISAL.tables(codec._generator[k:])
    sources = (ctypes.c_char_p * k)(*units)
    output = ctypes.create_string_buffer(size * m)
    library = ctypes.PyDLL("libisal.so.2")

    def encode() -> int:
        start = ctypes.addressof(output)  # named here, so that it lives as long as this function
        targets = (ctypes.c_void_p * m)(*range(start, start + m * size, size))
        library.ec_encode_data(size, k, m, tables, sources, targets)
        return start

    return encode


def measure(k: int, m: int, unit_bytes: int, seconds: float) -> dict[str, str | int | float]:
    """One line of the table."""
    units = [
        bytes((17 * unit + index * index) & 0xFF for index in range(4096)) * (unit_bytes // 4096) for unit in range(k)
    ]
    data_bytes = k * unit_bytes
    codec, slow = Codec(k, m), Codec(k, m, isal=None)
    every = [*units, *codec.encode(units)]
    available = {unit: every[unit] for unit in range(m, k + m)}
    encode = rate(lambda: codec.encode(units), data_bytes, seconds)
    alone = rate(isal_alone(codec, units), data_bytes, seconds) if ISAL is not None else encode
    zfec = rate(lambda: slow.encode(units), data_bytes, seconds)
    return {
        "code": f"{k}+{m}",
        "unit_bytes": unit_bytes,
        "codec": codec.codec_name,
        "encode_bytes_per_s": round(encode),
        "isal_alone_bytes_per_s": round(alone),
        "zfec_bytes_per_s": round(zfec),
        "ratio_to_isal_alone": round(encode / alone, 3),
        "ratio_to_zfec": round(encode / zfec, 1),
        "decode_m_lost_bytes_per_s": round(rate(lambda: codec.reconstruct(available, range(m)), data_bytes, seconds)),
        "hash_bytes_per_s": round(rate(lambda: checksums_of(every), (k + m) * unit_bytes, seconds)),
    }


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds in all")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    options = parser.parse_args()
    seconds = 0.1 if options.quick else 0.5
    codes = [(4, 2), (8, 3)] if options.quick else [(4, 2), (8, 3), (12, 4)]
    sizes = [64 * KIB, MIB] if options.quick else [4 * KIB, 64 * KIB, MIB]
    results = [measure(k, m, size, seconds) for k, m in codes for size in sizes]
    if options.json:
        print(json.dumps({"bench": "encode", "results": results}, indent=1))
        return
    line_format = (
        "{code:>5} {unit_bytes:>8}: encode {encode_bytes_per_s:>14,} B/s, {ratio_to_isal_alone:.2f} of ISA-L, "
        "{ratio_to_zfec:.1f} x zfec; decode {decode_m_lost_bytes_per_s:>14,}; hash {hash_bytes_per_s:>14,}"
    )
    for line in results:
        print(line_format.format_map(line))


if __name__ == "__main__":
    main()
