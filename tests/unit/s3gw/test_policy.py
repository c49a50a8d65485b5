"""Policies: what they decide is what an oracle of a few lines says; what is malformed is refused, whatever is sent."""

from __future__ import annotations

import fnmatch
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.keys import limited_to
from siltstone.s3gw.conditions import operator_named
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.policy import Question, Verdict, names_of, parse_bucket_policy, parse_key_policy
from siltstone.s3gw.post_policy import parse_form_policy
from siltstone.s3gw.wildcards import expression

USERS = ("alice", "bob", "corp$carol", "")
PRINCIPALS = ("*", "alice", "arn:aws:iam:::user/bob", "arn:aws:iam::corp:root", "arn:aws:iam::corp:user/carol")
ACTIONS = ("s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:GetObjectAcl")
PATTERNS = ("*", "s3:*", "s3:Get*", "s3:getobject", "s3:P?tObject", "s3:ListBucket")
RESOURCES = ("b", "b/a", "b/a/x", "b/z")
RESOURCE_PATTERNS = ("*", "arn:aws:s3:::b", "arn:aws:s3:::b/*", "arn:aws:s3:::b/a*", "arn:aws:s3:::b/?")


def one_or_more(values: tuple[str, ...]) -> st.SearchStrategy[Any]:
    return st.sampled_from(values) | st.lists(st.sampled_from(values), min_size=1, max_size=3)


conditions = st.none() | st.fixed_dictionaries(
    {
        "operator": st.sampled_from(
            ["StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIfExists"]
        ),
        "key": st.sampled_from(["s3:prefix", "s3:delimiter"]),
        "wanted": one_or_more(("a", "a*", "b")),
    }
)


@st.composite
def statements(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {"Effect": draw(st.sampled_from(["Allow", "Deny"]))}
    may_exclude = found["Effect"] == "Deny" and draw(st.booleans())
    principal = draw(one_or_more(PRINCIPALS))
    found["NotPrincipal" if may_exclude else "Principal"] = "*" if principal == "*" else {"AWS": principal}
    found[draw(st.sampled_from(["Action", "NotAction"]))] = draw(one_or_more(PATTERNS))
    found[draw(st.sampled_from(["Resource", "NotResource"]))] = draw(one_or_more(RESOURCE_PATTERNS))
    condition = draw(conditions)
    if condition is not None:
        found["Condition"] = {condition["operator"]: {condition["key"]: condition["wanted"]}}
    return found


def texts(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def is_principal(user: str, principal: Any) -> bool:
    names = {
        "alice": {"alice", "arn:aws:iam:::user/alice"},
        "bob": {"bob", "arn:aws:iam:::user/bob"},
        "corp$carol": {"arn:aws:iam::corp:root", "arn:aws:iam::corp:user/carol"},
        "": set(),
    }[user]
    return principal == "*" or any(one == "*" or one in names for one in texts(principal["AWS"]))


def glob(text: str, patterns: Any, *, fold: bool) -> bool:
    found = [(text.lower(), one.lower()) if fold else (text, one) for one in texts(patterns)]
    return any(fnmatch.fnmatchcase(value, pattern) for value, pattern in found)


def fits(test: str, value: str | None, wanted: Any) -> bool:
    if value is None:
        return "Not" in test or test.endswith("IfExists")
    like = "Like" in test
    found = any(fnmatch.fnmatchcase(value, one) if like else value == one for one in texts(wanted))
    return found is not ("Not" in test)


def oracle(document: list[dict[str, Any]], user: str, action: str, resource: str, values: dict[str, str]) -> Verdict:
    effects = set()
    for one in document:
        if "Principal" in one and not is_principal(user, one["Principal"]):
            continue
        if "NotPrincipal" in one and is_principal(user, one["NotPrincipal"]):
            continue
        if "Action" in one and not glob(action, one["Action"], fold=True):
            continue
        if "NotAction" in one and glob(action, one["NotAction"], fold=True):
            continue
        if "Resource" in one and not glob(resource, one["Resource"], fold=False):
            continue
        if "NotResource" in one and glob(resource, one["NotResource"], fold=False):
            continue
        tests = one.get("Condition", {}).items()
        if all(fits(test, values.get(key), wanted) for test, keys in tests for key, wanted in keys.items()):
            effects.add(one["Effect"])
    return Verdict.DENY if "Deny" in effects else Verdict.ALLOW if "Allow" in effects else Verdict.SILENT


@settings(max_examples=300, deadline=None)
@given(
    st.lists(statements(), min_size=1, max_size=4),
    st.sampled_from(USERS),
    st.sampled_from(ACTIONS),
    st.sampled_from(RESOURCES),
    st.dictionaries(st.sampled_from(["s3:prefix", "s3:delimiter"]), st.sampled_from(["a", "ab", "c"])),
)
def test_a_policy_decides_as_the_oracle(
    document: list[dict[str, Any]], user: str, action: str, resource: str, values: dict[str, str]
) -> None:
    policy = parse_bucket_policy(json.dumps({"Statement": document}).encode(), "b")
    arn = f"arn:aws:s3:::{resource}"
    question = Question(user, action, arn, lambda key: (values[key],) if key in values else None)
    assert policy.decide(question) is oracle(document, user, action, arn, values)
    denied = parse_bucket_policy(
        json.dumps(
            {"Statement": [*document, {"Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*"}]}
        ).encode(),
        "b",
    )
    assert denied.decide(question) is Verdict.DENY


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Statement", "Effect", "Principal", "AWS", "Action", "Resource", "Condition", "StringLike"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_sent_as_a_policy_is_parsed_or_refused(text: bytes) -> None:
    try:
        parse_bucket_policy(text, "b")
    except S3Error as error:
        assert error.code == "MalformedPolicy"
    try:
        parse_key_policy(text)
    except S3Error as error:
        assert error.code == "MalformedPolicy"
    try:
        parse_form_policy(text.decode("latin-1"))
    except S3Error as error:
        assert error.code in ("InvalidPolicyDocument", "AccessDenied")


@settings(max_examples=200, deadline=None)
@given(st.text("ab*?", max_size=8), st.text("ab", max_size=10))
def test_wildcards_match_as_the_shell_has_them(pattern: str, text: str) -> None:
    import re

    found = re.compile(expression(pattern), re.DOTALL).fullmatch(text) is not None
    assert found is fnmatch.fnmatchcase(text, pattern)


def test_no_pattern_takes_long() -> None:
    import re

    assert re.compile(expression("*a" * 40 + "b")).fullmatch("a" * 3000) is None


@pytest.mark.parametrize(
    ("name", "values", "wanted", "holds"),
    [
        ("IpAddress", ["10.1.2.3"], ["10.0.0.0/8"], True),
        ("NotIpAddress", ["10.1.2.3"], ["10.0.0.0/8"], False),
        ("IpAddress", ["nowhere"], ["10.0.0.0/8"], False),
        ("NumericLessThanEquals", ["10"], ["10"], True),
        ("NumericLessThan", ["ten"], ["10"], False),
        ("DateGreaterThan", ["2026-01-02T00:00:00Z"], ["2026-01-01T00:00:00Z"], True),
        ("Bool", ["true"], ["True"], True),
        ("Null", None, ["true"], True),
        ("Null", ["x"], ["true"], False),
        ("StringEquals", None, ["x"], False),
        ("StringNotEquals", None, ["x"], True),
        ("ForAllValues:StringEquals", ["a", "b"], ["a"], False),
        ("ForAnyValue:StringEquals", ["a", "b"], ["a"], True),
        ("ForAllValues:StringEquals", None, ["a"], True),
        ("ForAnyValue:StringEquals", None, ["a"], False),
    ],
)
def test_operators_hold_as_they_are_documented(
    name: str, values: list[str] | None, wanted: list[str], holds: bool
) -> None:
    found = operator_named(name)
    assert found is not None
    assert found.takes(wanted)
    assert found.holds(values, wanted) is holds


def test_a_policy_about_another_bucket_is_refused() -> None:
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::other/*"}
    with pytest.raises(S3Error, match="resource"):
        parse_bucket_policy(json.dumps({"Statement": statement}).encode(), "b")


@pytest.mark.parametrize(
    ("principal", "condition", "public"),
    [
        ("*", None, True),
        ({"AWS": "*"}, None, True),
        ({"AWS": "arn:aws:iam:::user/bob"}, None, False),
        ("*", {"IpAddress": {"aws:SourceIp": "10.0.0.0/32"}}, False),
        ("*", {"StringLike": {"aws:Referer": "http://x/*"}}, True),
    ],
)
def test_which_policies_are_public(principal: Any, condition: Any, public: bool) -> None:
    statement = {"Effect": "Allow", "Principal": principal, "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*"}
    if condition is not None:
        statement["Condition"] = condition
    assert parse_bucket_policy(json.dumps({"Statement": [statement]}).encode(), "b").is_public is public


def test_nobody_has_no_name() -> None:
    assert not names_of("")


@pytest.mark.parametrize("read_only", [False, True])
def test_a_limited_key_reaches_its_prefix_and_nothing_else(read_only: bool) -> None:
    policy = parse_key_policy(json.dumps(limited_to(["photos"], "2026/", read_only=read_only)).encode())

    def may(action: str, resource: str, prefix: str | None = None) -> bool:
        def values(key: str) -> tuple[str, ...] | None:
            return (prefix,) if key == "s3:prefix" and prefix is not None else None

        asked = Question("alice", f"s3:{action}", f"arn:aws:s3:::{resource}", values)
        return policy.decide(asked) is Verdict.ALLOW

    assert may("GetObject", "photos/2026/a") and may("ListBucket", "photos", "2026/")
    assert may("PutObject", "photos/2026/a") is may("DeleteObject", "photos/2026/a") is not read_only
    for action in ("GetObject", "PutObject", "DeleteObject"):
        assert not may(action, "photos/2025/a") and not may(action, "other/2026/a")
    assert not may("ListBucket", "photos") and not may("ListBucket", "photos", "2025/")
    assert not may("DeleteBucket", "photos") and not may("PutBucketPolicy", "photos")
