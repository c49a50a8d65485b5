"""Access logs of buckets: who may have them written where, what stands in them, and that they are bounded."""

from __future__ import annotations

import json
import math
import shlex

import pytest

from siltstone.errors import Unavailable
from siltstone.s3gw import access_log
from siltstone.s3gw.bucket_logging import LogTarget, log_key
from siltstone.s3gw.router import Operation, Target
from sim.s3 import ALT, MAIN, Answer, Client, Door, run_in_memory, run_on_core

PREFIX = "logs/"
ON = (
    "<BucketLoggingStatus><LoggingEnabled><TargetBucket>target</TargetBucket><TargetPrefix>logs/</TargetPrefix>"
    "{}</LoggingEnabled></BucketLoggingStatus>"
)


def policy_text(**changes: object) -> bytes:
    """A policy of the target that lets the log of the bucket be written to it."""
    statement: dict[str, object] = {
        "Effect": "Allow",
        "Principal": {"Service": "logging.s3.amazonaws.com"},
        "Action": "s3:PutObject",
        "Resource": "arn:aws:s3:::target/logs/*",
        "Condition": {
            "ArnLike": {"aws:SourceArn": "arn:aws:s3:::bucket"},
            "StringEquals": {"aws:SourceAccount": MAIN.owner},
        },
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement | changes]}).encode()


async def put_logging(client: Client, document: str, bucket: str = "bucket", **named: object) -> Answer:
    return await client.request("PUT", f"/{bucket}", "logging", body=document.encode(), **named)  # type: ignore[arg-type]


async def make_target(client: Client, policy: bytes) -> None:
    assert (await client.put("/target")).status == 200
    assert (await client.request("PUT", "/target", "policy", body=policy)).status == 204


async def logged(door: Door, client: Client) -> list[dict[str, str]]:
    """Everything that was delivered, by field, in order."""
    await door.gateway.access_log.deliver(math.inf)
    page = await door.store.list_keys("target", prefix=PREFIX.encode(), delimiter=b"", start_after=b"", limit=1000)
    found: list[dict[str, str]] = []
    for info in page.entries:
        body = (await client.request("GET", "/target/" + info.key.decode())).body.decode()
        for line in body.splitlines():
            fields = shlex.split(line.replace("[", '"', 1).replace("]", '"', 1))
            assert len(fields) == 26
            found.append(dict(zip(FIELDS, fields, strict=False)))
    return found


FIELDS = [
    "owner",
    "bucket",
    "time",
    "peer",
    "requester",
    "request_id",
    "operation",
    "key",
    "uri",
    "status",
    "code",
    "sent",
    "size",
    "total",
    "turnaround",
    "referer",
    "agent",
    "version",
    "host_id",
    "signature",
]


def test_each_request_is_a_record_in_the_bucket_that_is_to_have_them() -> None:
    async def body(door: Door, client: Client) -> None:
        await make_target(client, policy_text())
        assert (await client.request("GET", "/bucket", "logging")).xml.children == []
        assert (await put_logging(client, ON.format(""))).status == 200
        shown = (await client.request("GET", "/bucket", "logging")).xml.child("LoggingEnabled")
        assert shown is not None and shown.text_of("TargetPrefix") == PREFIX
        agent = 'a "browser"'
        await client.request("PUT", "/bucket/a%20key", body=b"12345", headers={"user-agent": agent})
        await client.request("GET", "/bucket/a%20key")
        await client.request("GET", "/bucket/nothing")
        await client.request("DELETE", "/bucket/a%20key", key=ALT)
        await client.request("GET", "/bucket", "list-type=2")
        records = await logged(door, client)
        told = [(record["operation"], record["status"], record["code"]) for record in records[-5:]]
        assert told == [
            ("REST.PUT.OBJECT", "200", "-"),
            ("REST.GET.OBJECT", "200", "-"),
            ("REST.GET.OBJECT", "404", "NoSuchKey"),
            ("REST.DELETE.OBJECT", "403", "AccessDenied"),
            ("REST.GET.BUCKET", "200", "-"),
        ]
        put, got, _, refused, _ = records[-5:]
        assert (put["key"], put["size"], put["requester"], put["bucket"]) == ("a%20key", "5", MAIN.owner, "bucket")
        assert put["uri"] == "PUT /bucket/a%20key HTTP/1.1" and put["agent"] == "a %22browser%22"
        assert (got["sent"], got["size"]) == ("5", "5")
        assert refused["requester"] == ALT.owner and refused["owner"] == MAIN.owner
        assert put["request_id"] != got["request_id"]
        assert door.gateway.counters.log_bytes_waiting == 0
        assert (await put_logging(client, "<BucketLoggingStatus/>")).status == 200
        before = len(await logged(door, client))
        await client.request("GET", "/bucket/nothing")
        assert len(await logged(door, client)) == before

    run_on_core(body)
    run_in_memory(body)


@pytest.mark.parametrize(
    "change",
    [
        {"Principal": {"AWS": "*"}},
        {"Principal": "*"},
        {"Principal": {"Service": "logging.s3.amazonaws.com.evil"}},
        {"Action": "s3:GetObject"},
        {"Resource": "arn:aws:s3:::target/other/*"},
        {"Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:s3:::other"}}},
        {"Condition": {"StringEquals": {"aws:SourceAccount": ALT.owner}}},
        {"Effect": "Deny"},
    ],
    ids=str,
)
def test_a_bucket_whose_policy_does_not_take_the_log_gets_none(change: dict[str, object]) -> None:
    async def body(door: Door, client: Client) -> None:
        await make_target(client, policy_text(**change))
        refused = await put_logging(client, ON.format(""))
        assert (refused.status, refused.code) == (403, "AccessDenied")
        assert (await client.request("GET", "/bucket", "logging")).xml.children == []

    run_in_memory(body)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (ON.replace(">target<", ">absent<").format(""), "InvalidTargetBucketForLogging"),
        (ON.replace(">target<", ">bucket<").format(""), "InvalidArgument"),
        (ON.replace("logs/", "x" * 513).format(""), "InvalidArgument"),
        (ON.format("<LoggingType>Journal</LoggingType>"), "NotImplemented"),
        (ON.format("<TargetObjectKeyFormat/>"), "MalformedXML"),
        (
            ON.format(
                "<TargetObjectKeyFormat><PartitionedPrefix><PartitionDateSource>never</PartitionDateSource>"
                "</PartitionedPrefix></TargetObjectKeyFormat>"
            ),
            "MalformedXML",
        ),
        ("<BucketLoggingStatus><LoggingEnabled/></BucketLoggingStatus>", "MalformedXML"),
        ("<Other/>", "MalformedXML"),
        ("no xml", "MalformedXML"),
    ],
)
def test_what_is_no_configuration_of_logging_is_refused_and_changes_nothing(document: str, code: str) -> None:
    async def body(door: Door, client: Client) -> None:
        await make_target(client, policy_text())
        assert (await put_logging(client, document)).code == code
        assert (await client.request("GET", "/bucket", "logging")).xml.children == []

    run_in_memory(body)


def test_only_the_owner_has_a_bucket_logged_and_not_to_one_that_is_logged_or_encrypted_itself() -> None:
    async def body(door: Door, client: Client) -> None:
        await make_target(client, policy_text())
        everything = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::bucket"}
        text = json.dumps({"Statement": [everything]}).encode()
        assert (await client.request("PUT", "/bucket", "policy", body=text)).status == 204
        assert (await put_logging(client, ON.format(""), key=ALT)).code == "AccessDenied"
        sealed = (
            b"<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256"
            b"</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>"
        )
        assert (await client.request("PUT", "/target", "encryption", body=sealed)).status == 200
        assert (await put_logging(client, ON.format(""))).code == "InvalidArgument"
        assert (await client.request("DELETE", "/target", "encryption")).status == 204
        assert (await put_logging(client, ON.format(""))).status == 200
        chained = policy_text(
            Resource="arn:aws:s3:::bucket/*", Condition={"ArnLike": {"aws:SourceArn": "arn:aws:s3:::third"}}
        )
        assert (await client.put("/third")).status == 200
        assert (await client.request("PUT", "/bucket", "policy", body=chained)).status == 204
        onto = ON.replace(">target<", ">bucket<").format("")
        assert (await put_logging(client, onto, "third")).code == "InvalidArgument"

    run_in_memory(body)


def test_what_cannot_be_delivered_is_tried_again_and_what_must_not_be_is_lost_and_counted() -> None:
    async def body(door: Door, client: Client) -> None:
        await make_target(client, policy_text())
        await put_logging(client, ON.format(""))
        await client.request("GET", "/bucket/one")
        door.memory.fail_write = Unavailable("the disks are away")
        assert await logged(door, client) == []
        door.memory.fail_write = None
        assert "one" in [record["key"] for record in await logged(door, client)]
        assert door.gateway.counters.log_objects == 1
        await client.request("GET", "/bucket/two")
        assert (await client.request("DELETE", "/target", "policy")).status == 204
        assert "two" not in [record["key"] for record in await logged(door, client)]
        counters = door.gateway.counters
        assert counters.log_records_lost == 1 and counters.log_bytes_waiting == 0

    run_in_memory(body)


def test_records_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(door: Door, client: Client) -> None:
        await make_target(client, policy_text())
        await put_logging(client, ON.format(""))
        for _ in range(20):
            await client.request("GET", "/bucket/key")
        counters = door.gateway.counters
        assert counters.log_records_lost > 0
        assert 0 < counters.log_bytes_waiting <= 2000

    monkeypatch.setattr(access_log, "WAITING_BYTES_MAX", 2000)
    run_in_memory(body)


@pytest.mark.parametrize(
    ("partition", "key"),
    [
        ("", b"p/2025-03-14-09-26-53-ABC"),
        ("EventTime", b"p/me/us-east-1/source/2025/03/14/2025-03-14-09-26-53-ABC"),
    ],
)
def test_log_objects_are_called_as_on_aws(partition: str, key: bytes) -> None:
    target = LogTarget(bucket="t", prefix="p/", partition=partition)
    assert log_key(target, "source", "me", "us-east-1", 1_741_944_413_000_000_000, "ABC") == key


@pytest.mark.parametrize(
    ("operation", "method", "key", "action"),
    [
        (Operation.HEAD_OBJECT, "HEAD", b"k", "REST.HEAD.OBJECT"),
        (Operation.COPY_OBJECT, "PUT", b"k", "REST.COPY.OBJECT"),
        (Operation.UPLOAD_PART, "PUT", b"k", "REST.PUT.PART"),
        (Operation.COMPLETE_MULTIPART_UPLOAD, "POST", b"k", "REST.POST.UPLOAD"),
        (Operation.CREATE_BUCKET, "PUT", b"", "REST.PUT.BUCKET"),
        (Operation.DELETE_BUCKET, "DELETE", b"", "REST.DELETE.BUCKET"),
        (Operation.GET_BUCKET_VERSIONING, "GET", b"", "REST.GET.VERSIONING"),
        (Operation.PUT_BUCKET_POLICY, "PUT", b"", "REST.PUT.POLICY"),
        (Operation.GET_OBJECT_TAGGING, "GET", b"k", "REST.GET.TAGGING"),
        (Operation.LIST_OBJECTS_V2, "GET", b"", "REST.GET.BUCKET"),
    ],
)
def test_operations_are_called_as_on_aws(operation: Operation, method: str, key: bytes, action: str) -> None:
    assert access_log.action_named(operation, method, Target("bucket", key)) == action
