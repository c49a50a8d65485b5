"""Dates of HTTP and of S3."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

from hypothesis import given
from hypothesis import strategies as st

from siltstone.s3gw.dates import http_date, iso_date, parse_amz_date, parse_http_date

SECOND_NS = 1_000_000_000
seconds = st.integers(0, 4_000_000_000)


@given(seconds)
def test_http_dates_are_those_of_the_standard_library_and_parse_back(second: int) -> None:
    text = http_date(second * SECOND_NS + 999)
    assert text == format_datetime(datetime.fromtimestamp(second, UTC), usegmt=True)
    assert parse_http_date(text) == second * SECOND_NS


@given(seconds)
def test_amz_dates_parse_to_their_second(second: int) -> None:
    text = iso_date(second * SECOND_NS)[:19].replace("-", "").replace(":", "") + "Z"
    assert parse_amz_date(text) == second * SECOND_NS


@given(st.text(max_size=30))
def test_nonsense_is_no_date(text: str) -> None:
    parse_http_date(text)
    assert parse_amz_date(text) is None or len(text) == 16


def test_all_three_forms_of_http_dates_are_read() -> None:
    for text in ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"):
        assert parse_http_date(text) == 784_111_777 * SECOND_NS
