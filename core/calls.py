"""What a front-end in another process asks a shard for: methods of the Volume, of ShardObjects, ReadPlans and
ShardClones, by name, from a fixed table.

A call and its answer are msgpack. What the arguments and results are, the methods' own annotations say, so the table
has only names; both sides check by them. Errors travel by class.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from siltstone import errors
from siltstone.core.read_plans import ReadPlans
from siltstone.core.shard_clones import ShardClones
from siltstone.core.shard_objects import ShardObjects
from siltstone.core.types import Change
from siltstone.core.volume import Volume
from siltstone.errors import SiltstoneError
from siltstone.meta.shards.map import Placement
from siltstone.meta.shards.messages import Failed
from siltstone.types import Buffer, Ino

_encode = msgspec.msgpack.Encoder().encode


class Call(msgspec.Struct, array_like=True, tag="call", frozen=True):
    """A method and its arguments. ``number``, ``answered_below``: see answers.py; 0 if it changes nothing."""

    method: str
    arguments: msgspec.Raw
    client: bytes
    number: int
    answered_below: int


class Answered(msgspec.Struct, array_like=True, tag="answered", frozen=True):
    """What it returned."""

    result: msgspec.Raw


class Nameless(msgspec.Struct, array_like=True, tag="nameless", frozen=True):
    """An inode has lost its last name: does the front-end hold it?"""

    ino: Ino


class Spread(msgspec.Struct, array_like=True, tag="spread", frozen=True):
    """There are so many shards: listen to all of them, and to no others. ``placements``: where partitions are."""

    count: int
    placements: list[Placement]


class Poll(msgspec.Struct, array_like=True, tag="poll", frozen=True):
    """Wants to hear of what has changed, and of inodes that lost their last name; the first opens a session.

    ``session``: the one that ``seen`` is about, 0 before there is one. ``seen``: the number of the last change that the
    front-end has taken in. ``let_go``: inodes that were asked about and that it does not (any more) hold.
    """

    client: bytes
    session: int
    seen: int
    let_go: list[Ino]
    hears: bool = True
    """Whether it caches what changes; else it only wants to hear of inodes without a name."""


class EndReads(msgspec.Struct, array_like=True, tag="end-reads", frozen=True):
    """A front-end does not need these leases any more (read_plans.py). The answer says nothing."""

    client: bytes
    leases: list[int]


class News(msgspec.Struct, array_like=True, tag="news", frozen=True):
    """What there is to hear of behind what was seen, and the number of the last; of changes only those of others.

    ``session``: another one than before means that some was missed.
    """

    session: int
    number: int
    items: list[Change | Nameless | Spread]


class AskLoad(msgspec.Struct, array_like=True, tag="ask-load", frozen=True):
    """How much is there to do?"""


class Load(msgspec.Struct, array_like=True, tag="load", frozen=True):
    """What a shard has done since it began, and what it is at."""

    calls: int
    messages: int
    """Of other shards."""
    under_way: int
    """Of both."""
    retries: int
    """Operations begun again because another came in between."""
    prepared: int
    """Transactions of others that hold something here."""
    unsettled: int
    """Transactions that it has decided, and not all others are known to have carried out."""
    inodes: int
    log_bytes: int
    partition_calls: dict[int, int] = {}
    """Calls about each partition."""
    leases: int = 0
    """Plans that front-ends read by (read_plans.py)."""


class Method(NamedTuple):
    """A method of the table. ``is_once``: it changes the namespace, and must be carried out once."""

    name: str
    owner: type
    """Volume, or what a shard offers beside it: ShardObjects, ReadPlans, ShardClones."""
    is_once: bool
    has_origin: bool
    """Its changes are told to all front-ends but the one that asked."""
    arguments: type[msgspec.Struct]
    """All but ``origin``, in order. The first is an inode number, or a list of them, and says which shard to ask."""
    decode_arguments: Callable[[msgspec.Raw], Any]
    decode_result: Callable[[msgspec.Raw], Any]

    def encode_arguments(self, *arguments: Any, **named: Any) -> msgspec.Raw:
        """Raises TypeError for arguments that the method has not."""
        return msgspec.Raw(_encode(self.arguments(*arguments, **named)))


def encode_result(result: object) -> msgspec.Raw:
    """What a method returned."""
    return msgspec.Raw(_encode(result))


def method_of(kind: type, name: str, *, is_once: bool = False) -> Method:
    """A method of a class, as it is called from elsewhere: all its arguments but ``origin`` and ``progress``."""
    function = getattr(kind, name)
    hints = typing.get_type_hints(function)
    fields: list[Any] = []
    has_origin = False
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.name == "origin":
            has_origin = True
            continue
        if parameter.name == "progress":
            continue
        hint = bytes if hints[parameter.name] == Buffer else hints[parameter.name]
        has_default = parameter.default is not inspect.Parameter.empty
        fields.append((parameter.name, hint, parameter.default) if has_default else (parameter.name, hint))
    arguments = msgspec.defstruct(f"Arguments_{name}", fields, array_like=True, frozen=True)
    return Method(
        name,
        kind,
        is_once,
        has_origin,
        arguments,
        msgspec.msgpack.Decoder(arguments).decode,
        msgspec.msgpack.Decoder(hints["return"]).decode,
    )


_LOOKS = (
    "lookup",
    "attributes",
    "find",
    "find_many",
    "attributes_of_many",
    "readlink",
    "list_directory",
    "parent_of",
    "get_xattr",
    "list_xattrs",
    "read",
)
_BYTES = ("write", "flush", "fsync", "sync", "space")
"""These may be carried out twice: the same bytes at the same place."""
_CHANGES = ("create", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "set_attributes")
_XATTR_CHANGES = ("set_xattr", "remove_xattr")

_OBJECT_LOOKS = (
    "bucket_named",
    "buckets_at",
    "bucket_documents",
    "find_object",
    "open_object",
    "list_objects",
    "list_versions",
    "upload",
    "list_parts",
    "list_uploads",
)
_OBJECT_BYTES = ("begin_bytes",)
"""What is made twice is held by nobody the first time."""
_OBJECT_CHANGES = (
    "create_bucket",
    "delete_bucket",
    "set_bucket_documents",
    "put_object",
    "put_written",
    "delete_object",
    "edit_object",
    "copy_object",
    "create_upload",
    "put_part",
    "put_written_part",
    "share_part",
    "complete_upload",
    "abort_upload",
)

_CLONE_CHANGES = ("clone_entries", "clone_file", "link_clone", "name_clone")
"""``begin_clone`` is none: what is made twice is held by nobody the first time."""

METHODS = (
    {name: method_of(Volume, name) for name in _LOOKS + _BYTES}
    | {name: method_of(Volume, name, is_once=True) for name in _CHANGES + _XATTR_CHANGES}
    | {name: method_of(ReadPlans, name) for name in ("plan_read", "read_object")}
    | {name: method_of(ShardObjects, name) for name in _OBJECT_LOOKS + _OBJECT_BYTES}
    | {name: method_of(ShardObjects, name, is_once=True) for name in _OBJECT_CHANGES}
    | {"begin_clone": method_of(ShardClones, "begin_clone")}
    | {name: method_of(ShardClones, name, is_once=True) for name in _CLONE_CHANGES}
)


def subject_of(arguments: Sequence[Any]) -> Ino | None:
    """The inode that a call is about; None if it is about a whole shard."""
    first = arguments[0] if arguments else None
    if isinstance(first, list):
        first = first[0] if first else None
    return None if first is None else Ino(first)


def failed(error: SiltstoneError) -> Failed:
    """An error, to be sent."""
    return Failed(type(error).__name__, str(error))


def error_of(reply: Failed) -> SiltstoneError:
    """The error that was sent: of its class, or of the nearest that is made of a text alone."""
    kind = getattr(errors, reply.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, SiltstoneError)):
        kind = errors.Unavailable
    while "__init__" in vars(kind) or kind.__init__ is not Exception.__init__:
        kind = kind.__base__
        assert kind is not None and issubclass(kind, SiltstoneError)
    return kind(reply.message)
