"""Rules for browsers of other origins: parsing, and which rule fits a request. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec

from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.wildcards import expression
from siltstone.s3gw.xml import Node

METHODS = ("GET", "PUT", "POST", "DELETE", "HEAD")
RULES_MAX = 100


class CorsRule(msgspec.Struct, frozen=True, dict=True):
    """One rule. Origins and headers may hold one ``*``."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    max_age_seconds: int | None

    @cached_property
    def _origin(self) -> re.Pattern[str]:
        return re.compile("|".join(f"(?:{expression(one)})" for one in self.origins))

    @cached_property
    def _header(self) -> re.Pattern[str]:
        return re.compile("|".join(f"(?:{expression(one)})" for one in self.headers) or "(?!)", re.IGNORECASE)

    def fits(self, origin: str, method: str, headers: Sequence[str] = ()) -> bool:
        """Whether it allows a method from an origin, with headers."""
        return (
            method in self.methods
            and self._origin.fullmatch(origin) is not None
            and all(self._header.fullmatch(name) for name in headers)
        )


def rule_for(rules: Sequence[CorsRule], origin: str, method: str, headers: Sequence[str] = ()) -> CorsRule | None:
    """The first that fits."""
    return next((rule for rule in rules if rule.fits(origin, method, headers)), None)


def reply_headers(rule: CorsRule, origin: str, headers: Sequence[str] = ()) -> list[tuple[str, str]]:
    """What a browser is told. ``headers``: those that it asked for before it sends the request itself."""
    any_origin = "*" in rule.origins
    told = [("Access-Control-Allow-Origin", "*" if any_origin else origin)]
    if not any_origin:
        told += [("Access-Control-Allow-Credentials", "true")]
    told += [("Access-Control-Allow-Methods", ", ".join(rule.methods))]
    if headers:
        told.append(("Access-Control-Allow-Headers", ", ".join(headers)))
    if rule.exposed:
        told.append(("Access-Control-Expose-Headers", ", ".join(rule.exposed)))
    if rule.max_age_seconds is not None:
        told.append(("Access-Control-Max-Age", str(rule.max_age_seconds)))
    told.append(("Vary", "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"))
    return told


def parse_cors(document: Node | None) -> tuple[CorsRule, ...]:
    """The rules of a CORSConfiguration. Raises MalformedXML, InvalidRequest."""
    if document is None or document.name != "CORSConfiguration":
        raise S3Error("MalformedXML")
    rules = tuple(_rule(node) for node in document.all("CORSRule"))
    if not 1 <= len(rules) <= RULES_MAX:
        raise S3Error("MalformedXML")
    return rules


def _rule(node: Any) -> CorsRule:
    def texts(name: str) -> tuple[str, ...]:
        return tuple((child.text or "").strip() for child in node.all(name))

    rule_methods, origins, age = texts("AllowedMethod"), texts("AllowedOrigin"), node.text_of("MaxAgeSeconds")
    if not rule_methods or not origins:
        raise S3Error("MalformedXML")
    for method in rule_methods:
        if method not in METHODS:
            raise S3Error(
                "InvalidRequest",
                f"Found unsupported HTTP method in CORS config. Unsupported method is {method}",
            )
    for pattern in (*origins, *texts("AllowedHeader")):
        if pattern.count("*") > 1 or not pattern.isprintable():
            raise S3Error("InvalidRequest", f'AllowedOrigin or AllowedHeader "{pattern}" can not have more than one *.')
    exposed = texts("ExposeHeader")
    if not all(re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) for name in exposed):
        raise S3Error("InvalidRequest", "ExposeHeader is not the name of a header.")
    if age is not None and not re.fullmatch(r"\d{1,9}", age.strip()):
        raise S3Error("MalformedXML")
    return CorsRule(origins, rule_methods, texts("AllowedHeader"), exposed, None if age is None else int(age))
