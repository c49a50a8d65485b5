"""Access control lists: canned ones, grants in headers and documents, and what a list permits to whom. Pure.

A list is kept as texts ``PERMISSION grantee``, where a grantee is ``id:USER`` or ``uri:GROUP``. An empty one is the
usual one: the owner has full control, and nobody else anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from siltstone.s3gw.errors import S3Error
from siltstone.s3gw.xml import Element, Node

ALL_USERS = "uri:http://acs.amazonaws.com/groups/global/AllUsers"
AUTHENTICATED_USERS = "uri:http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
LOG_DELIVERY = "uri:http://acs.amazonaws.com/groups/s3/LogDelivery"
GROUPS = (ALL_USERS, AUTHENTICATED_USERS, LOG_DELIVERY)
PERMISSIONS = ("FULL_CONTROL", "READ", "WRITE", "READ_ACP", "WRITE_ACP")
GRANTS_MAX = 100

GRANT_HEADERS = {
    "x-amz-grant-read": "READ",
    "x-amz-grant-write": "WRITE",
    "x-amz-grant-read-acp": "READ_ACP",
    "x-amz-grant-write-acp": "WRITE_ACP",
    "x-amz-grant-full-control": "FULL_CONTROL",
}

Grants = tuple[str, ...]
PRIVATE: Grants = ()


class User(Protocol):
    """Somebody who may be granted something."""

    @property
    def owner(self) -> str:
        """The id."""

    @property
    def display_name(self) -> str:
        """The name for people."""


class Users(Protocol):
    """Everybody who has a key."""

    def user(self, owner: str) -> User | None:
        """By id."""

    def user_by_email(self, email: str) -> User | None:
        """By address."""


class Owners(NamedTuple):
    """Whose an object is, and whose its bucket; of a bucket's own list both are the bucket's."""

    owner: str
    bucket_owner: str


def permits(grants: Sequence[str], user: str, permission: str, *, ignores_public: bool = False) -> bool:
    """Whether a list gives a permission to a user ("" for nobody known). The owner is not looked at."""
    grantees = [ALL_USERS]
    if user:
        grantees += [AUTHENTICATED_USERS, f"id:{user}"]
    if ignores_public:
        grantees = grantees[2:]
    return any(f"{kind} {grantee}" in grants for kind in ("FULL_CONTROL", permission) for grantee in grantees)


def is_public(grants: Iterable[str]) -> bool:
    """Whether it gives anything to everybody."""
    return any(grant.endswith((" " + ALL_USERS, " " + AUTHENTICATED_USERS)) for grant in grants)


def canned(name: str, owners: Owners) -> Grants:
    """The list that a name stands for. Raises InvalidArgument."""
    full = f"FULL_CONTROL id:{owners.owner}"
    match name:
        case "private" | "aws-exec-read":
            return PRIVATE
        case "public-read":
            return (f"READ {ALL_USERS}", full)
        case "public-read-write":
            return (f"READ {ALL_USERS}", f"WRITE {ALL_USERS}", full)
        case "authenticated-read":
            return (f"READ {AUTHENTICATED_USERS}", full)
        case "log-delivery-write":
            return (f"WRITE {LOG_DELIVERY}", f"READ_ACP {LOG_DELIVERY}", full)
        case "bucket-owner-read":
            return PRIVATE if owners.owner == owners.bucket_owner else (full, f"READ id:{owners.bucket_owner}")
        case "bucket-owner-full-control":
            return PRIVATE if owners.owner == owners.bucket_owner else (full, f"FULL_CONTROL id:{owners.bucket_owner}")
        case _:
            raise S3Error("InvalidArgument", ArgumentName="x-amz-acl", ArgumentValue=name)


def names_a_list(headers: Mapping[str, str]) -> bool:
    """Whether a request's headers say what the list is to be."""
    return "x-amz-acl" in headers or not GRANT_HEADERS.keys().isdisjoint(headers)


def of_headers(headers: Mapping[str, str], owners: Owners, users: Users) -> Grants:
    """The list that a request's headers ask for. Raises InvalidRequest, InvalidArgument,
    UnresolvableGrantByEmailAddress."""
    given = [(permission, headers[name]) for name, permission in GRANT_HEADERS.items() if name in headers]
    name = headers.get("x-amz-acl")
    if not given:
        return canned(name, owners) if name else PRIVATE
    if name:
        raise S3Error("InvalidRequest", "Specifying both Canned ACLs and Header Grants is not allowed")
    grants: list[str] = []
    for permission, text in given:
        for part in text.split(","):
            kind, _, value = part.strip().partition("=")
            grants.append(f"{permission} {_grantee(kind.strip().lower(), value.strip().strip(chr(34)), users)}")
    return _bounded(grants)


def _grantee(kind: str, value: str, users: Users) -> str:
    match kind:
        case "id":
            if users.user(value) is None:
                raise S3Error("InvalidArgument", "Invalid id", ArgumentName="CanonicalUser/ID", ArgumentValue=value)
            return f"id:{value}"
        case "uri":
            if f"uri:{value}" not in GROUPS:
                raise S3Error("InvalidArgument", "Invalid group uri", ArgumentName="Group/URI", ArgumentValue=value)
            return f"uri:{value}"
        case "emailaddress":
            found = users.user_by_email(value)
            if found is None:
                raise S3Error("UnresolvableGrantByEmailAddress", EmailAddress=value)
            return f"id:{found.owner}"
        case _:
            raise S3Error("InvalidArgument", "Argument format not recognized", ArgumentName="x-amz-grant")


def of_document(document: Node, owner: str, users: Users) -> Grants:
    """The list in an AccessControlPolicy. Raises MalformedACLError, AccessDenied for another owner, and what
    ``of_headers`` raises."""
    entries = document.child("AccessControlList")
    if document.name != "AccessControlPolicy" or entries is None:
        raise S3Error("MalformedACLError")
    told = document.child("Owner")
    if told is not None and owner and (told.text_of("ID") or owner) != owner:
        raise S3Error("AccessDenied")
    grants: list[str] = []
    for node in entries.all("Grant"):
        permission, grantee = (node.text_of("Permission") or "").strip(), node.child("Grantee")
        if permission not in PERMISSIONS or grantee is None:
            raise S3Error("MalformedACLError")
        for name, kind in (("ID", "id"), ("URI", "uri"), ("EmailAddress", "emailaddress")):
            value = grantee.text_of(name)
            if value is not None:
                grants.append(f"{permission} {_grantee(kind, value.strip(), users)}")
                break
        else:
            raise S3Error("MalformedACLError")
    # Without a grant at all the owner has nothing written down either; the empty list means otherwise.
    return _bounded(grants) or ("NONE",)


def _bounded(grants: list[str]) -> Grants:
    if len(grants) > GRANTS_MAX:
        raise S3Error("MalformedACLError", f"An ACL has at most {GRANTS_MAX} grants")
    return tuple(dict.fromkeys(grants))


_XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


def document_of(grants: Sequence[str], owner: str, users: Users) -> list[Element]:
    """The children of an AccessControlPolicy."""
    entries: list[Element] = []
    # Groups come first, as in the canned lists, in whichever order they were sent.
    for grant in sorted(grants or (f"FULL_CONTROL id:{owner}",), key=lambda grant: " uri:" not in grant):
        permission, _, grantee = grant.partition(" ")
        kind, _, value = grantee.partition(":")
        if not value:
            continue
        # The one place in S3 where an attribute matters: clients read the kind of grantee from it.
        if kind == "id":
            name = f'Grantee {_XSI} xsi:type="CanonicalUser"'
            children = _user(value, users)
        else:
            name = f'Grantee {_XSI} xsi:type="Group"'
            children = [("URI", value)]
        entries.append(("Grant", [(name, children), ("Permission", permission)]))
    return [("Owner", _user(owner, users)), ("AccessControlList", entries)]


def _user(owner: str, users: Users) -> list[Element]:
    found = users.user(owner)
    return [("ID", owner), ("DisplayName", owner if found is None else found.display_name)]
