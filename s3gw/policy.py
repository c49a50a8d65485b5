"""Policies as JSON: of buckets (who may do what) and of access keys (what they may do). Parsed once, then pure.

A statement that matches and denies decides; else one that matches and allows; else the policy says nothing. A request
is put as a ``Question``: who asks, for which action, on which resource, and a function for values of condition keys.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from siltstone.s3gw.conditions import Operator, operator_named
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.wildcards import expression

POLICY_BYTES_MAX = 20 * 1024
STATEMENTS_MAX = 200
VERSIONS = ("2012-10-17", "2008-10-17")
ARN = "arn:aws:s3:::"
SERVICE = "service/"
"""What the principal of a service begins with; no owner's id has a slash."""

EVERYONE = "*"
EXISTING_TAG = "s3:existingobjecttag/"
"""Condition keys that begin so are about tags that an object has."""

Values = Callable[[str], Sequence[str] | None]
"""The values of a condition key (lower case) for a request, None when it has none."""


class Verdict(enum.Enum):
    """What a policy says."""

    DENY = "deny"
    ALLOW = "allow"
    SILENT = "silent"


class Question(NamedTuple):
    """``user``: the id of who asks, "" for nobody known. ``action``: as ``s3:GetObject``. ``resource``: an ARN."""

    user: str
    action: str
    resource: str
    values: Values


class _Condition(NamedTuple):
    operator: Operator
    key: str
    wanted: tuple[str, ...]


class _Statement(NamedTuple):
    allows: bool
    principals: frozenset[str] | None
    """Names of users that match, None in the policy of a key: it is about whoever holds it."""
    excludes_principals: bool
    actions: re.Pattern[str]
    excludes_actions: bool
    resources: re.Pattern[str]
    excludes_resources: bool
    conditions: tuple[_Condition, ...]

    def matches(self, question: Question) -> bool:
        """Whether it is about the question."""
        if self.principals is not None:
            # Everybody is every user; a service has to be named.
            is_named = EVERYONE in self.principals and not question.user.startswith(SERVICE)
            is_named = is_named or not self.principals.isdisjoint(names_of(question.user))
            if is_named is self.excludes_principals:
                return False
        if (self.actions.fullmatch(question.action) is not None) is self.excludes_actions:
            return False
        if (self.resources.fullmatch(question.resource) is not None) is self.excludes_resources:
            return False
        return all(
            condition.operator.holds(question.values(condition.key), condition.wanted) for condition in self.conditions
        )


class Policy(NamedTuple):
    """A policy, ready to be asked. ``keys``: condition keys that it looks at."""

    statements: tuple[_Statement, ...]
    keys: frozenset[str]

    def decide(self, question: Question) -> Verdict:
        """What it says: a denial over any permission."""
        verdict = Verdict.SILENT
        for statement in self.statements:
            if (statement.allows and verdict is Verdict.ALLOW) or not statement.matches(question):
                continue
            if not statement.allows:
                return Verdict.DENY
            verdict = Verdict.ALLOW
        return verdict

    @property
    def wants_existing_tags(self) -> bool:
        """Whether it looks at tags that objects have."""
        return any(key.startswith(EXISTING_TAG) for key in self.keys)

    @property
    def is_public(self) -> bool:
        """Whether it allows something to anybody, with no condition that says where they come from or who they are."""
        return any(_is_public(statement) for statement in self.statements)


_NARROWING_KEYS = frozenset(
    (
        "aws:sourceip",
        "aws:sourcearn",
        "aws:sourcevpc",
        "aws:sourcevpce",
        "aws:sourceaccount",
        "aws:sourceowner",
        "aws:userid",
        "aws:username",
        "aws:principalarn",
        "aws:principalorgid",
    )
)


def _is_public(statement: _Statement) -> bool:
    if not statement.allows or statement.principals is None:
        return False
    if not statement.excludes_principals and EVERYONE not in statement.principals:
        return False
    return not any(
        condition.key in _NARROWING_KEYS
        and not condition.operator.is_negated
        and not any("*" in value or value in ("0.0.0.0/0", "::/0") for value in condition.wanted)
        for condition in statement.conditions
    )


@lru_cache(maxsize=1024)
def names_of(user: str) -> frozenset[str]:
    """The principals that stand for a user: its id, and ARNs of it and of its account. A tenant's user is
    ``tenant$user``."""
    if not user:
        return frozenset()
    account, _, name = user.rpartition("$")
    accounts = {account} if account else {user, ""}
    names = {user, *(f"arn:aws:iam::{one}:user/{name}" for one in accounts)}
    owner = account or user
    return frozenset(names | {owner, f"arn:aws:iam::{owner}:root"})


# --- parsing -------------------------------------------------------------------------------------------------------


def parse_bucket_policy(text: bytes, bucket: str) -> Policy:
    """The policy of a bucket; each statement names principals and resources of this bucket. Raises MalformedPolicy."""
    return _parse(text, bucket)


def parse_key_policy(text: bytes) -> Policy:
    """The policy of an access key, which names no principals. Raises MalformedPolicy."""
    return _parse(text, None)


def _parse(text: bytes, bucket: str | None) -> Policy:
    if len(text) > POLICY_BYTES_MAX:
        raise _malformed(f"Policies must not be longer than {POLICY_BYTES_MAX} bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _malformed("Policies must be valid JSON and the first byte must be '{'") from None
    if not isinstance(document, dict):
        raise _malformed("Policies must be valid JSON and the first byte must be '{'")
    _only(document, ("Version", "Id", "Statement"))
    if document.get("Version", VERSIONS[0]) not in VERSIONS:
        raise _malformed("The policy must contain a valid version string")
    statements = document.get("Statement")
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not 1 <= len(statements) <= STATEMENTS_MAX:
        raise _malformed("Missing required field Statement")
    parsed = tuple(_statement(statement, bucket) for statement in statements)
    keys = frozenset(condition.key for statement in parsed for condition in statement.conditions)
    return Policy(parsed, keys)


def _statement(raw: Any, bucket: str | None) -> _Statement:
    if not isinstance(raw, dict):
        raise _malformed("Statement must be an object")
    known = ("Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition")
    _only(raw, known if bucket is None else (*known, "Principal", "NotPrincipal"))
    if raw.get("Effect") not in ("Allow", "Deny"):
        raise _malformed(f"Invalid effect: {raw.get('Effect')}")
    principals: frozenset[str] | None = None
    excludes_principals = False
    if bucket is not None:
        excludes_principals, given = _either(raw, "Principal")
        if excludes_principals and raw["Effect"] == "Allow":
            raise _malformed("Allow with NotPrincipal is not allowed")
        principals = _principals(given)
    excludes_actions, actions = _either(raw, "Action")
    excludes_resources, resources = _either(raw, "Resource")
    action_patterns = _texts(actions, "Action")
    for action in action_patterns:
        if action != "*" and not action.lower().startswith("s3:"):
            raise _malformed("Policy has invalid action")
    resource_patterns = _texts(resources, "Resource")
    for resource in resource_patterns:
        if bucket is not None and not _is_of_bucket(resource, bucket):
            raise _malformed("Policy has invalid resource")
    return _Statement(
        raw["Effect"] == "Allow",
        principals,
        excludes_principals,
        _pattern(action_patterns, re.IGNORECASE),
        excludes_actions,
        _pattern(map(_plain_arn, resource_patterns), 0),
        excludes_resources,
        tuple(_conditions(raw.get("Condition", {}))),
    )


def _either(raw: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """(whether it is the Not... form, its value) of an element that must be there in one of two forms."""
    if (name in raw) is ("Not" + name in raw):
        raise _malformed(f"Missing required field {name}")
    return (False, raw[name]) if name in raw else (True, raw["Not" + name])


def _principals(raw: Any) -> frozenset[str]:
    if raw == EVERYONE:
        return frozenset((EVERYONE,))
    if not isinstance(raw, dict) or not raw:
        raise _malformed("Invalid principal in policy")
    _only(raw, ("AWS", "CanonicalUser", "Federated", "Service"))
    found: set[str] = set()
    for kind, names in raw.items():
        texts = _texts(names, "Principal")
        if kind in ("AWS", "CanonicalUser"):  # nobody comes here from elsewhere
            found.update(texts)
        elif kind == "Service":
            found.update(SERVICE + text for text in texts)
    return frozenset(found)


def _plain_arn(resource: str) -> str:
    """A resource without the region and account that some write into it."""
    parts = resource.split(":", 5)
    return ARN + parts[5] if len(parts) == 6 and resource.startswith("arn:") else resource


def _is_of_bucket(resource: str, bucket: str) -> bool:
    if resource == "*":
        return True
    if re.match(r"arn:(aws|\*):s3:", resource) is None:
        return False
    name = _plain_arn(resource).removeprefix(ARN).partition("/")[0]
    return re.fullmatch(expression(name), bucket) is not None


def _conditions(raw: Any) -> Iterable[_Condition]:
    if not isinstance(raw, dict):
        raise _malformed("Condition must be an object")
    for name, tests in raw.items():
        operator = operator_named(name)
        if operator is None:
            raise _malformed(f"Invalid Condition type : {name}")
        if not isinstance(tests, dict):
            raise _malformed("Condition must be an object of objects")
        for key, values in tests.items():
            wanted = tuple(_text_of(value) for value in (values if isinstance(values, list) else [values]))
            if not operator.takes(wanted):
                raise _malformed(f"Invalid value for condition {name}")
            yield _Condition(operator, key.lower() if "/" not in key else _lower_stem(key), wanted)


def _lower_stem(key: str) -> str:
    stem, _, name = key.partition("/")
    return f"{stem.lower()}/{name}"


def _text_of(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise _malformed("Condition values must be strings, numbers or booleans")


def _texts(raw: Any, name: str) -> list[str]:
    texts = raw if isinstance(raw, list) else [raw]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise _malformed(f"{name} must be a string or a list of strings")
    return texts


def _pattern(texts: Iterable[str], flags: int) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{expression(text)})" for text in texts), flags | re.DOTALL)


def _only(raw: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in raw:
        if name not in known:
            raise _malformed(f"Unknown field {name}")


def _malformed(message: str) -> S3Error:
    return S3Error("MalformedPolicy", message)
