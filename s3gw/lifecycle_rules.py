"""Lifecycle rules of a bucket: what they may be, when something is due by them, and what of a key is to go. Pure.

See docs/decisions/0026-lifecycle.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from siltstone.core.object_types import Expiry, ListedVersion, ObjectInfo
from siltstone.limits import KEY_BYTES_MAX
from siltstone.s3gw.dates import iso_date, parse_iso_date
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.tags import OBJECT_TAGS_MAX, tags_of_nodes
from siltstone.s3gw.xml import Element, Node

RULES_MAX = 1000
ID_CHARACTERS_MAX = 255
NEWER_MAX = 100
DAY_NS = 24 * 3600 * 1_000_000_000


class Calendar(NamedTuple):
    """How long a day of the rules is. A real one ends at midnight UTC, a shortened one whenever it is over."""

    day_ns: int = DAY_NS

    @property
    def is_real(self) -> bool:
        """Whether a day is a day."""
        return self.day_ns == DAY_NS

    def after(self, moment_ns: int, days: int) -> int:
        """The end of the day that is so many days after a moment."""
        due_ns = moment_ns + days * self.day_ns
        return -(-due_ns // DAY_NS) * DAY_NS if self.is_real else due_ns


REAL_DAYS = Calendar()


class Rule(NamedTuple):
    """One rule. ``has_filter``: whether the prefix was said in a Filter, or by itself as in older documents. 0 days,
    and None, are what was not said; sizes are in bytes, and both excluded."""

    identifier: str
    is_enabled: bool
    prefix: bytes
    has_filter: bool
    tags: dict[str, str]
    larger_than: int | None
    smaller_than: int | None
    days: int = 0
    date_ns: int | None = None
    drops_markers: bool = False
    noncurrent_days: int = 0
    newer_kept: int = 0
    upload_days: int = 0

    def fits(self, info: ObjectInfo) -> bool:
        """Whether it is about an object or version."""
        return (
            info.key.startswith(self.prefix)
            and self.tags.items() <= info.tags.items()
            and (self.larger_than is None or info.size > self.larger_than)
            and (self.smaller_than is None or info.size < self.smaller_than)
        )

    @property
    def is_about_prefix_only(self) -> bool:
        """Whether it is about everything under its prefix: also what has no tags and no size."""
        return not self.tags and self.larger_than is None and self.smaller_than is None

    def due_ns(self, info: ObjectInfo, calendar: Calendar) -> int | None:
        """When the current version of a key expires that it is about; None for never."""
        if self.date_ns is not None:
            return self.date_ns
        return calendar.after(info.modified_ns, self.days) if self.days else None


def expiration(rules: Sequence[Rule], info: ObjectInfo, calendar: Calendar) -> tuple[int, str] | None:
    """When a current version expires, and by which rule; None for never."""
    found = [
        (due_ns, rule.identifier)
        for rule in rules
        if rule.is_enabled and rule.fits(info) and (due_ns := rule.due_ns(info, calendar)) is not None
    ]
    return min(found, default=None)


def abortion(rules: Sequence[Rule], key: bytes, created_ns: int, calendar: Calendar) -> tuple[int, str] | None:
    """When an upload is aborted, and by which rule; None for never."""
    found = [
        (calendar.after(created_ns, rule.upload_days), rule.identifier)
        for rule in rules
        if rule.is_enabled and rule.upload_days and key.startswith(rule.prefix)
    ]
    return min(found, default=None)


def prefixes(rules: Sequence[Rule], counts: Callable[[Rule], bool]) -> list[bytes]:
    """The prefixes under which some enabled rule has something to do that ``counts``; none is in another."""
    found: list[bytes] = []
    for prefix in sorted({rule.prefix for rule in rules if rule.is_enabled and counts(rule)}):
        if not found or not prefix.startswith(found[-1]):
            found.append(prefix)
    return found


# --- what is to go ---------------------------------------------------------------------------------------------------


class Doomed(NamedTuple):
    """A version that is to go. ``version_id``: None where the key is to be deleted as a client deletes it."""

    key: bytes
    version_id: str | None
    expiry: Expiry


class Planner:
    """Says what of the versions of a bucket is to go that it is shown in the order of the list: by key, the newest
    first. Some things are known only when the next key comes."""

    def __init__(self, rules: Sequence[Rule], calendar: Calendar, now_ns: int) -> None:
        self._rules = [rule for rule in rules if rule.is_enabled]
        self._calendar = calendar
        self._now_ns = now_ns
        self._key = b""
        self._newer = 0
        self._marker: ListedVersion | None = None

    def see(self, listed: ListedVersion) -> list[Doomed]:
        """The next version; what is found to go."""
        if listed.is_latest:
            found = self.end()
            self._key, self._newer = listed.info.key, 0
            if listed.is_marker:
                self._marker = listed
                return found
            due = expiration(self._rules, listed.info, self._calendar)
            return found if due is None or due[0] > self._now_ns else [*found, _doomed(listed, None)]
        assert listed.info.key == self._key, "a version that is not current came before the one that is"
        self._marker = None
        kept = self._due_behind(listed)
        self._newer += 1
        return [] if kept is None else [_doomed(listed, kept)]

    def end(self) -> list[Doomed]:
        """The key has no more versions; what else is to go of it."""
        marker, self._marker = self._marker, None
        if marker is None:
            return []
        info = marker.info
        for rule in self._rules:
            if info.key.startswith(rule.prefix) and rule.is_about_prefix_only:
                due_ns = rule.due_ns(info, self._calendar)
                if rule.drops_markers or (due_ns is not None and due_ns <= self._now_ns):
                    return [_doomed(marker, None)]
        return []

    def _due_behind(self, listed: ListedVersion) -> int | None:
        """If a version that is not current is due: behind how many others. None if it is not."""
        due = []
        for rule in self._rules:
            if not rule.noncurrent_days or self._newer < rule.newer_kept:
                continue
            fits = rule.fits(listed.info)
            if listed.is_marker:
                fits = listed.info.key.startswith(rule.prefix) and rule.is_about_prefix_only
            if fits and self._calendar.after(listed.replaced_ns, rule.noncurrent_days) <= self._now_ns:
                due.append(rule.newer_kept)
        return min(due, default=None)


def _doomed(listed: ListedVersion, newer: int | None) -> Doomed:
    """``newer``: behind how many that are not current it goes; None for a current one."""
    info = listed.info
    by_id = newer is not None or listed.is_marker
    expiry = Expiry(
        ino=info.ino,
        modified_ns=info.modified_ns,
        etag=info.etag,
        tags=info.tags,
        is_current=newer is None,
        newer=newer or 0,
    )
    return Doomed(info.key, info.version_id if by_id else None, expiry)


# --- documents -------------------------------------------------------------------------------------------------------

_IN_RULE = {
    "ID",
    "Status",
    "Prefix",
    "Filter",
    "Expiration",
    "NoncurrentVersionExpiration",
    "AbortIncompleteMultipartUpload",
    "Transition",
    "NoncurrentVersionTransition",
}
_IN_FILTER = {"And", "Prefix", "Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan"}


def parse_rules(document: Node | None, new_id: Callable[[], str]) -> tuple[Rule, ...]:
    """The rules of a LifecycleConfiguration; those without an ID get one. Raises MalformedXML, InvalidArgument,
    InvalidRequest, InvalidTag, NotImplemented."""
    if document is None or document.name != "LifecycleConfiguration":
        raise S3Error("MalformedXML")
    nodes = document.all("Rule")
    if not 1 <= len(nodes) <= RULES_MAX or len(nodes) != len(document.children):
        raise S3Error("MalformedXML")
    rules = tuple(_rule(node, new_id) for node in nodes)
    if len({rule.identifier for rule in rules}) != len(rules):
        raise S3Error("InvalidArgument", "Rule ID must be unique. Found same ID for more than one rule")
    return rules


def _rule(node: Node, new_id: Callable[[], str]) -> Rule:
    if any(child.name not in _IN_RULE for child in node.children):
        raise S3Error("MalformedXML")
    identifier = node.text_of("ID") or new_id()
    if len(identifier) > ID_CHARACTERS_MAX:
        raise S3Error("InvalidArgument", f"ID length should not exceed allowed limit of {ID_CHARACTERS_MAX}")
    status, prefix, filter_node = node.text_of("Status"), node.text_of("Prefix"), node.child("Filter")
    if status not in ("Enabled", "Disabled") or (prefix is None) == (filter_node is None):
        raise S3Error("MalformedXML")
    rule = Rule(identifier, status == "Enabled", _prefix(prefix or ""), filter_node is not None, {}, None, None)
    if filter_node is not None:
        rule = _filtered(rule, filter_node)
    if (expires := node.child("Expiration")) is not None:
        rule = _expiring(rule, expires)
    if (noncurrent := node.child("NoncurrentVersionExpiration")) is not None:
        rule = _expiring_noncurrent(rule, noncurrent)
    if (uploads := node.child("AbortIncompleteMultipartUpload")) is not None:
        rule = rule._replace(upload_days=_count(uploads, "DaysAfterInitiation", what="AbortIncompleteMultipartUpload"))
    _refuse_transitions(node)
    if not (rule.days or rule.date_ns is not None or rule.drops_markers or rule.noncurrent_days or rule.upload_days):
        raise S3Error("InvalidRequest", "At least one action needs to be specified in a rule")
    if (rule.drops_markers and rule.tags) or (rule.upload_days and not rule.is_about_prefix_only):
        raise S3Error(
            "InvalidRequest", "Uploads and delete markers have no tags and no size that a filter could ask for"
        )
    return rule


def _filtered(rule: Rule, node: Node) -> Rule:
    """The rule with what its filter says; conditions beside each other are all to hold, as those in an And."""
    parts: list[Node] = []
    for child in node.children:
        if child.name not in _IN_FILTER:
            raise S3Error("MalformedXML")
        parts += child.children if child.name == "And" else [child]
    tags: list[Node] = []
    given: list[bytes] = []
    larger: int | None = None
    smaller: int | None = None
    for part in parts:
        match part.name:
            case "Prefix":
                given.append(_prefix(part.text))
            case "Tag":
                tags.append(part)
            case "ObjectSizeGreaterThan":
                larger = _size(part)
            case "ObjectSizeLessThan":
                smaller = _size(part)
            case _:
                raise S3Error("MalformedXML")
    prefix = max(given, key=len, default=b"")
    if not all(prefix.startswith(one) for one in given):
        raise S3Error("InvalidRequest", "No key can have both prefixes of the filter")
    if larger is not None and smaller is not None and larger >= smaller:
        raise S3Error("InvalidRequest", "'ObjectSizeLessThan' has to be a value greater than 'ObjectSizeGreaterThan'")
    return rule._replace(
        prefix=prefix, tags=tags_of_nodes(tags, OBJECT_TAGS_MAX), larger_than=larger, smaller_than=smaller
    )


def _prefix(text: str) -> bytes:
    prefix = text.encode("utf-8", "surrogatepass")
    if len(prefix) > KEY_BYTES_MAX:
        raise S3Error("InvalidRequest", f"The maximum size of a prefix is {KEY_BYTES_MAX}.")
    return prefix


def _size(node: Node) -> int:
    text = node.text.strip()
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise S3Error("MalformedXML")
    return int(text)


def _count(node: Node, name: str, *, what: str, largest: int = 2**31 - 1) -> int:
    text = (node.text_of(name) or "").strip()
    if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        raise S3Error("MalformedXML")
    if not 1 <= int(text) <= largest:
        raise S3Error("InvalidArgument", f"'{name}' for {what} action must be a positive integer")
    return int(text)


def _date(text: str) -> int:
    date_ns = parse_iso_date(text)
    if date_ns is None:
        raise S3Error("MalformedXML")
    if date_ns % DAY_NS:
        raise S3Error("InvalidArgument", "'Date' must be at midnight GMT")
    return date_ns


def _expiring(rule: Rule, node: Node) -> Rule:
    if len(node.children) != 1:
        raise S3Error("MalformedXML")
    match node.children[0].name:
        case "Days":
            return rule._replace(days=_count(node, "Days", what="Expiration"))
        case "Date":
            return rule._replace(date_ns=_date(node.text_of("Date") or ""))
        case "ExpiredObjectDeleteMarker":
            text = node.children[0].text.strip().lower()
            if text not in ("true", "false"):
                raise S3Error("MalformedXML")
            return rule._replace(drops_markers=text == "true")
        case _:
            raise S3Error("MalformedXML")


def _expiring_noncurrent(rule: Rule, node: Node) -> Rule:
    if any(child.name not in ("NoncurrentDays", "NewerNoncurrentVersions") for child in node.children):
        raise S3Error("MalformedXML")
    what = "NoncurrentVersionExpiration"
    rule = rule._replace(noncurrent_days=_count(node, "NoncurrentDays", what=what))
    if node.child("NewerNoncurrentVersions") is None:
        return rule
    return rule._replace(newer_kept=_count(node, "NewerNoncurrentVersions", what=what, largest=NEWER_MAX))


def _refuse_transitions(node: Node) -> None:
    transitions = node.all("Transition")
    for transition in transitions:
        if (date := transition.text_of("Date")) is not None:
            _date(date)
    if transitions or node.child("NoncurrentVersionTransition") is not None:
        raise S3Error("NotImplemented", "There is one storage class: transitions to others are not implemented.")


def rule_elements(rules: Sequence[Rule]) -> list[Element]:
    """A document of rules."""
    return [("Rule", _elements(rule)) for rule in rules]


def _elements(rule: Rule) -> list[Element]:
    children: list[Element] = [("ID", rule.identifier)]
    prefix = rule.prefix.decode("utf-8", "surrogatepass")
    children.append(("Filter", _filter_elements(rule, prefix)) if rule.has_filter else ("Prefix", prefix))
    children.append(("Status", "Enabled" if rule.is_enabled else "Disabled"))
    expires: dict[str, int | str | bool] = {}
    if rule.days:
        expires["Days"] = rule.days
    if rule.date_ns is not None:
        expires["Date"] = iso_date(rule.date_ns)
    if rule.drops_markers:
        expires["ExpiredObjectDeleteMarker"] = True
    if expires:
        children.append(("Expiration", list(expires.items())))
    if rule.noncurrent_days:
        noncurrent: list[Element] = [("NoncurrentDays", rule.noncurrent_days)]
        if rule.newer_kept:
            noncurrent.append(("NewerNoncurrentVersions", rule.newer_kept))
        children.append(("NoncurrentVersionExpiration", noncurrent))
    if rule.upload_days:
        children.append(("AbortIncompleteMultipartUpload", [("DaysAfterInitiation", rule.upload_days)]))
    return children


def _filter_elements(rule: Rule, prefix: str) -> list[Element]:
    found: list[Element] = [("Prefix", prefix)] if prefix else []
    found += _tag_elements(rule.tags)
    if rule.larger_than is not None:
        found.append(("ObjectSizeGreaterThan", rule.larger_than))
    if rule.smaller_than is not None:
        found.append(("ObjectSizeLessThan", rule.smaller_than))
    if len(found) > 1:
        return [("And", found)]
    return found or [("Prefix", "")]


def _tag_elements(tags: Mapping[str, str]) -> list[Element]:
    return [("Tag", [("Key", key), ("Value", value)]) for key, value in tags.items()]
