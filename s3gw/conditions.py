"""The operators of conditions in policies, by name: ``StringLike``, ``ForAnyValue:NumericEqualsIfExists``, ... Pure."""

from __future__ import annotations

import ipaddress
import operator
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from siltstone.s3gw.wildcards import expression

Test = Callable[[str, str], bool]
"""Whether a value of the request fits one that is wanted."""


class Operator(NamedTuple):
    """One operator. ``kind``: "" for one value, or ForAllValues, ForAnyValue. ``is_null``: it asks whether there is a
    value at all."""

    test: Test
    takes_value: Callable[[str], bool]
    is_negated: bool
    if_exists: bool
    kind: str
    is_null: bool

    def takes(self, wanted: Sequence[str]) -> bool:
        """Whether these values make sense."""
        return all(map(self.takes_value, wanted))

    def holds(self, values: Sequence[str] | None, wanted: Sequence[str]) -> bool:
        """Whether the values of a key (None: it has none) are as is wanted.

        A key without a value fits none, so the negated form holds; with IfExists every form does, and of no value at
        all everything holds for all.
        """
        if self.is_null:
            return any((one == "true") is (values is None) for one in wanted)
        if not values:
            return self.if_exists or self.is_negated or self.kind == "ForAllValues"
        fits = [any(self.test(value, one) for one in wanted) is not self.is_negated for value in values]
        return all(fits) if self.kind == "ForAllValues" or (self.is_negated and not self.kind) else any(fits)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _date(text: str) -> float | None:
    if re.fullmatch(r"-?\d{1,15}(\.\d+)?", text):
        return float(text)
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _compared(read: Callable[[str], float | None], compare: Callable[[float, float], bool]) -> Test:
    def test(value: str, wanted: str) -> bool:
        left, right = read(value), read(wanted)
        return left is not None and right is not None and compare(left, right)

    return test


@lru_cache(maxsize=1024)
def _like(pattern: str) -> re.Pattern[str]:
    return re.compile(expression(pattern), re.DOTALL)


def _is_like(value: str, wanted: str) -> bool:
    return _like(wanted).fullmatch(value) is not None


@lru_cache(maxsize=1024)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _is_in_network(value: str, wanted: str) -> bool:
    network = _network(wanted)
    try:
        return network is not None and ipaddress.ip_address(value) in network
    except ValueError:
        return False


def _anything(_: str) -> bool:
    return True


def _is_boolean(text: str) -> bool:
    return text.lower() in ("true", "false")


_TESTS: dict[str, tuple[Test, Callable[[str], bool]]] = {
    "StringEquals": (lambda value, wanted: value == wanted, _anything),
    "StringEqualsIgnoreCase": (lambda value, wanted: value.casefold() == wanted.casefold(), _anything),
    "StringLike": (_is_like, _anything),
    "ArnEquals": (_is_like, _anything),
    "ArnLike": (_is_like, _anything),
    "BinaryEquals": (lambda value, wanted: value == wanted, _anything),
    "Bool": (lambda value, wanted: value.lower() == wanted.lower(), _is_boolean),
    "IpAddress": (_is_in_network, lambda text: _network(text) is not None),
}
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "Equals": operator.eq,
    "LessThan": operator.lt,
    "LessThanEquals": operator.le,
    "GreaterThan": operator.gt,
    "GreaterThanEquals": operator.ge,
}


def _is_readable(read: Callable[[str], float | None]) -> Callable[[str], bool]:
    return lambda text: read(text) is not None


for _name, _compare in _COMPARISONS.items():
    _TESTS["Numeric" + _name] = (_compared(_number, _compare), _is_readable(_number))
    _TESTS["Date" + _name] = (_compared(_date, _compare), _is_readable(_date))

_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
    "NotIpAddress": "IpAddress",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
}


def operator_named(name: str) -> Operator | None:
    """The operator, None when there is none of that name."""
    kind, separator, rest = name.rpartition(":")
    if separator and kind not in ("ForAllValues", "ForAnyValue"):
        return None
    if rest == "Null":
        return Operator(_is_like, _is_boolean, False, False, kind, True)
    stem = rest.removesuffix("IfExists")
    is_negated = stem in _NEGATED
    found = _TESTS.get(_NEGATED.get(stem, stem))
    if found is None:
        return None
    return Operator(*found, is_negated, stem != rest, kind, False)
