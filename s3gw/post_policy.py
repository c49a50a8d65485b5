"""The policy of a form: until when, and what its fields must be. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from siltstone.s3gw.errors import S3Error

CONDITIONS_MAX = 200
_NOT_COVERED = frozenset(("awsaccesskeyid", "signature", "policy", "file", "x-amz-signature", "submit"))
"""Fields that no condition is needed for."""


_FREE_PREFIXES = ("x-ignore-", "x-amz-checksum-", "x-amz-server-side-encryption")
"""Nor for these: whoever uploads may have the bytes checked and encrypted."""


class SizeRange(NamedTuple):
    """How long the file must be, in bytes; both ends included."""

    least: int
    most: int


class FormPolicy(NamedTuple):
    """What a form must fulfil. ``wanted``: (field in lower case, value, whether it need only start with that)."""

    expires_ns: int
    wanted: tuple[tuple[str, str, bool], ...]
    sizes: SizeRange | None

    def check(self, fields: Mapping[str, str], now_ns: int) -> None:
        """Raise AccessDenied unless the form is as it must be: every field is covered, and fits. ``fields``: with the
        bucket."""
        if now_ns > self.expires_ns:
            raise _denied("Policy expired.")
        for name, value, starts in self.wanted:
            # What may begin with anything may also not be there.
            given = fields.get(name, "" if starts and not value else None)
            if given is None or not (given.startswith(value) if starts else given == value):
                raise _denied(f"Policy Condition failed: {name}")
        covered = {name for name, _, _ in self.wanted} | _NOT_COVERED
        for name in fields:
            if name not in covered and not name.startswith(_FREE_PREFIXES):
                raise _denied(f"Extra input fields: {name}")


def parse_form_policy(text: str) -> FormPolicy:
    """A policy as the form has it, in base64. Raises InvalidPolicyDocument."""
    try:
        document = json.loads(base64.b64decode(text.encode("latin-1"), validate=True))
    except (ValueError, RecursionError, binascii.Error, UnicodeError):
        raise _invalid("Invalid JSON.") from None
    if not isinstance(document, dict):
        raise _invalid("Invalid JSON.")
    conditions = document.get("conditions")
    if not isinstance(conditions, list) or len(conditions) > CONDITIONS_MAX:
        raise _invalid("Policy missing conditions.")
    wanted: list[tuple[str, str, bool]] = []
    sizes: SizeRange | None = None
    for condition in conditions:
        if isinstance(condition, dict):
            if not condition:
                raise _invalid("Invalid Simple-Condition: it is empty.")
            for name, value in condition.items():
                wanted.append((name.lower(), _text(value), False))
            continue
        if not isinstance(condition, list) or len(condition) != 3 or not isinstance(condition[0], str):
            raise _invalid("Invalid Condition.")
        match condition[0].lower():
            case "content-length-range":
                sizes = SizeRange(_size(condition[1]), _size(condition[2]))
            case "eq" | "starts-with" as operator:
                name = _text(condition[1])
                if not name.startswith("$"):
                    raise _invalid("Invalid Condition: a field begins with $.")
                wanted.append((name[1:].lower(), _text(condition[2]), operator == "starts-with"))
            case _:
                raise _invalid("Invalid Condition: unknown operation identifier.")
    if not wanted and sizes is None:
        raise _denied("Policy without conditions.")
    return FormPolicy(_expiration(document.get("expiration")), tuple(wanted), sizes)


def _expiration(raw: Any) -> int:
    try:
        if not isinstance(raw, str) or not raw.endswith("Z") or "T" not in raw:
            raise ValueError
        found = datetime.fromisoformat(raw[:-1]).replace(tzinfo=UTC)
    except ValueError:
        raise _invalid("Invalid 'expiration' value.") from None
    return int(found.timestamp()) * 1_000_000_000


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise _invalid("Invalid Condition: not a string.")
    return raw


def _size(raw: Any) -> int:
    if isinstance(raw, str) and raw.isascii() and raw.isdigit() and len(raw) < 20:
        return int(raw)
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < 0:
        raise _invalid("Invalid content-length-range.")
    return raw


def _invalid(message: str) -> S3Error:
    return S3Error("InvalidPolicyDocument", f"Invalid Policy: {message}")


def _denied(message: str) -> S3Error:
    return S3Error("AccessDenied", f"Invalid according to Policy: {message}")
