"""Lifecycle rules: what is refused, what replies say, and a plan against a plain account of what the rules mean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siltstone.core.object_types import ListedVersion, ObjectInfo
from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.lifecycle_rules import (
    DAY_NS,
    REAL_DAYS,
    Calendar,
    Planner,
    Rule,
    parse_rules,
    prefixes,
    rule_elements,
)
from siltstone.s3gw.xml import parse, render
from siltstone.types import Ino
from sim.s3 import START_NS, Client, Door, run_on_each_store

ONE = "<Rule><ID>one</ID><Prefix>a/</Prefix><Status>Enabled</Status><Expiration><Days>3</Days></Expiration></Rule>"


def document(rules: str) -> bytes:
    return f"<LifecycleConfiguration>{rules}</LifecycleConfiguration>".encode()


def test_a_configuration_is_kept_and_replies_say_when_an_object_goes() -> None:
    async def body(_: Door, client: Client) -> None:
        assert (await client.request("GET", "/bucket", "lifecycle")).code == "NoSuchLifecycleConfiguration"
        assert (await client.request("DELETE", "/bucket", "lifecycle")).status == 204
        uploads = "<AbortIncompleteMultipartUpload><DaysAfterInitiation>2</DaysAfterInitiation>"
        second = f"<Rule><Filter/><Status>Enabled</Status>{uploads}</AbortIncompleteMultipartUpload></Rule>"
        assert (await client.request("PUT", "/bucket", "lifecycle", body=document(ONE + second))).status == 200
        found = (await client.request("GET", "/bucket", "lifecycle")).xml.all("Rule")
        assert found[0].text_of("ID") == "one" and found[1].text_of("ID")
        assert (found[0].text_of("Prefix"), found[1].child("Prefix")) == ("a/", None)
        made = await client.put("/bucket/a/b", b"bytes")
        date = made.headers["x-amz-expiration"]
        assert date.startswith('expiry-date="') and date.endswith(' 00:00:00 GMT", rule-id="one"')
        for method in ("GET", "HEAD"):
            assert (await client.request(method, "/bucket/a/b")).headers["x-amz-expiration"] == date
        assert "x-amz-expiration" not in (await client.put("/bucket/b", b"")).headers
        begun = await client.request("POST", "/bucket/c", "uploads=")
        assert begun.headers["x-amz-abort-rule-id"] == found[1].text_of("ID")
        assert (await client.request("DELETE", "/bucket", "lifecycle")).status == 204
        assert "x-amz-expiration" not in (await client.request("GET", "/bucket/a/b")).headers

    run_on_each_store(body)


def rule(text: str, where: str = "<Prefix/>", status: str = "Enabled", identifier: str = "x") -> str:
    return f"<Rule><ID>{identifier}</ID>{where}<Status>{status}</Status>{text}</Rule>"


DAYS = "<Expiration><Days>{}</Days></Expiration>"
TAG = "<Tag><Key>k</Key><Value>v</Value></Tag>"


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ("", "MalformedXML"),
        (rule(DAYS.format(1), status="enabled"), "MalformedXML"),
        (rule(DAYS.format(1), where=""), "MalformedXML"),
        (rule(DAYS.format(1), where="<Prefix/><Filter/>"), "MalformedXML"),
        (rule(DAYS.format(1)) * 2, "InvalidArgument"),
        (rule(DAYS.format(1), identifier="x" * 256), "InvalidArgument"),
        (rule(DAYS.format(0)), "InvalidArgument"),
        (rule(DAYS.format("many")), "MalformedXML"),
        (rule(""), "InvalidRequest"),
        (rule("<Expiration/>"), "MalformedXML"),
        (rule("<Expiration><Date>2030-01-01T00:00:01Z</Date></Expiration>"), "InvalidArgument"),
        (rule("<Expiration><Date>soon</Date></Expiration>"), "MalformedXML"),
        (rule("<NoncurrentVersionExpiration/>"), "MalformedXML"),
        (
            rule(
                "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays><NewerNoncurrentVersions>101"
                "</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
            ),
            "InvalidArgument",
        ),
        (rule(DAYS.format(1), where=f"<Filter>{TAG * 2}</Filter>"), "InvalidTag"),
        (rule(DAYS.format(1), where="<Filter><ObjectSizeLessThan>-1</ObjectSizeLessThan></Filter>"), "MalformedXML"),
        (
            rule(
                "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>",
                where=f"<Filter>{TAG}</Filter>",
            ),
            "InvalidRequest",
        ),
        (rule("<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>"), "NotImplemented"),
        (rule("<Transition><Date>2030-01-01T00:00:01Z</Date></Transition>"), "InvalidArgument"),
        (rule("<Surprise/>"), "MalformedXML"),
    ],
)
def test_what_is_no_rule_is_refused(rules: str, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        parse_rules(parse(document(rules)), lambda: "new")
    assert caught.value.code == code


def test_a_day_ends_at_midnight_and_a_shortened_one_when_it_is_over() -> None:
    noon = START_NS // DAY_NS * DAY_NS + DAY_NS // 2
    assert REAL_DAYS.after(noon, 1) == noon + DAY_NS + DAY_NS // 2
    assert REAL_DAYS.after(noon + DAY_NS // 2, 1) == noon + DAY_NS + DAY_NS // 2
    assert Calendar(1000).after(noon, 3) == noon + 3000


def test_a_prefix_in_another_is_walked_once() -> None:
    rules = [
        Rule(str(at), on, text, True, {}, None, None, days=1)
        for at, (on, text) in enumerate([(True, b"a/b"), (True, b"a/"), (True, b"c"), (False, b""), (True, b"a0")])
    ]
    assert prefixes(rules, lambda rule: rule.days > 0) == [b"a/", b"a0", b"c"]


a_rule = st.builds(
    Rule,
    identifier=st.just("x"),
    is_enabled=st.sampled_from([True, True, True, False]),
    prefix=st.sampled_from([b"", b"a", b"b"]),
    has_filter=st.booleans(),
    tags=st.sampled_from([{}, {}, {"k": "v"}]),
    larger_than=st.sampled_from([None, None, 1]),
    smaller_than=st.none(),
    days=st.integers(0, 4),
    drops_markers=st.booleans(),
    noncurrent_days=st.integers(0, 4),
    newer_kept=st.integers(0, 2),
    date_ns=st.none(),
    upload_days=st.just(0),
)
a_version = st.tuples(st.booleans(), st.sampled_from([{}, {"k": "v"}]), st.integers(0, 3))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(a_rule, max_size=3),
    st.dictionaries(st.sampled_from([b"a", b"ab", b"b"]), st.lists(a_version, min_size=1, max_size=5)),
)
def test_a_plan_is_what_the_rules_say_of_each_version_by_itself(
    rules: list[Rule], history: dict[bytes, list[tuple[bool, dict[str, str], int]]]
) -> None:
    day, now = 100, 500
    expected: set[tuple[bytes, str]] = set()
    shown: list[ListedVersion] = []
    for key in sorted(history):
        versions = history[key]
        for at, (is_marker, tags, size) in enumerate(versions):
            made = now - 90 * at - 5  # the newest first
            identifier = f"{key!r} {at}"
            info = ObjectInfo(
                key=key,
                ino=Ino(0 if is_marker else at + 1),
                size=0 if is_marker else size,
                modified_ns=made,
                etag="",
                tags={} if is_marker else tags,
                version_id=identifier,
            )
            shown.append(ListedVersion(info, at == 0, is_marker, 0 if at == 0 else made + 90))
            for one in rules:
                if not one.is_enabled or not key.startswith(one.prefix):
                    continue
                if (one.tags and (is_marker or tags != one.tags)) or (one.larger_than and (is_marker or size <= 1)):
                    continue
                is_old = bool(one.days) and made + one.days * day <= now
                is_lone = is_marker and len(versions) == 1
                was_replaced = bool(one.noncurrent_days) and at > one.newer_kept
                if at == 0 and ((is_lone and (is_old or one.drops_markers)) or (not is_marker and is_old)):
                    expected.add((key, identifier))
                if at > 0 and was_replaced and made + 90 + one.noncurrent_days * day <= now:
                    expected.add((key, identifier))
    planner = Planner(rules, Calendar(day), now)
    found = [one for listed in shown for one in planner.see(listed)] + planner.end()
    of_current = {one.info.key: one.info.version_id for one in shown if one.is_latest}
    told = {(one.key, of_current[one.key] if one.version_id is None else one.version_id) for one in found}
    assert told == expected and len(told) == len(found)


@given(st.lists(a_rule.filter(lambda one: one.days > 0 and not (one.drops_markers)), min_size=1, max_size=1))
def test_rules_come_back_from_their_document(rules: list[Rule]) -> None:
    one = rules[0]._replace(has_filter=True, newer_kept=rules[0].newer_kept if rules[0].noncurrent_days else 0)
    assert parse_rules(parse(render("LifecycleConfiguration", rule_elements([one]))), lambda: "") == (one,)
