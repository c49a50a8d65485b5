"""Extended attributes: flags, namespaces, limits."""

from __future__ import annotations

import stat

import pytest

from siltstone.errors import (
    AlreadyExists,
    InvalidArgument,
    NameTooLong,
    NoSuchAttribute,
    NotPermitted,
    NotSupported,
    ValueTooLarge,
)
from siltstone.limits import NAME_BYTES_MAX, XATTR_LIST_BYTES_MAX, XATTR_VALUE_BYTES_MAX
from siltstone.meta import names, xattrs
from siltstone.types import ROOT_INO
from sim.metadata import open_metadata


def test_values_of_every_length_up_to_the_limit_are_kept() -> None:
    transaction = open_metadata().begin()
    for size in (0, 1, XATTR_VALUE_BYTES_MAX):
        inode = xattrs.set_xattr(transaction, ROOT_INO, b"user.v", b"x" * size, now_ns=7)
        assert inode.ctime_ns == 7 and inode.mtime_ns == 1
        assert xattrs.get_xattr(transaction, ROOT_INO, b"user.v") == b"x" * size
    with pytest.raises(ValueTooLarge):
        xattrs.set_xattr(transaction, ROOT_INO, b"user.v", b"x" * (XATTR_VALUE_BYTES_MAX + 1), now_ns=7)


def test_create_wants_it_new_and_replace_wants_it_there() -> None:
    transaction = open_metadata().begin()
    with pytest.raises(NoSuchAttribute):
        xattrs.set_xattr(transaction, ROOT_INO, b"user.a", b"1", replace=True, now_ns=1)
    xattrs.set_xattr(transaction, ROOT_INO, b"user.a", b"1", create=True, now_ns=1)
    with pytest.raises(AlreadyExists):
        xattrs.set_xattr(transaction, ROOT_INO, b"user.a", b"2", create=True, now_ns=1)
    xattrs.set_xattr(transaction, ROOT_INO, b"user.a", b"3", replace=True, now_ns=1)
    assert xattrs.get_xattr(transaction, ROOT_INO, b"user.a") == b"3"
    with pytest.raises(InvalidArgument):
        xattrs.set_xattr(transaction, ROOT_INO, b"user.a", b"4", create=True, replace=True, now_ns=1)


def test_one_that_is_removed_or_never_was_is_no_such_attribute() -> None:
    transaction = open_metadata().begin()
    with pytest.raises(NoSuchAttribute):
        xattrs.get_xattr(transaction, ROOT_INO, b"security.capability")
    xattrs.set_xattr(transaction, ROOT_INO, b"user.a", b"1", now_ns=1)
    assert xattrs.remove_xattr(transaction, ROOT_INO, b"user.a", now_ns=9).ctime_ns == 9
    for call in (
        lambda: xattrs.get_xattr(transaction, ROOT_INO, b"user.a"),
        lambda: xattrs.remove_xattr(transaction, ROOT_INO, b"user.a", now_ns=1),
    ):
        with pytest.raises(NoSuchAttribute):
            call()
    assert xattrs.list_xattrs(transaction, ROOT_INO) == []


@pytest.mark.parametrize("name", [b"system.posix_acl_access", b"made.up", b"plain"])
def test_other_namespaces_are_not_supported(name: bytes) -> None:
    transaction = open_metadata().begin()
    for call in (
        lambda: xattrs.get_xattr(transaction, ROOT_INO, name),
        lambda: xattrs.set_xattr(transaction, ROOT_INO, name, b"", now_ns=1),
        lambda: xattrs.remove_xattr(transaction, ROOT_INO, name, now_ns=1),
    ):
        with pytest.raises(NotSupported):
            call()


def test_names_have_a_limit_and_a_form() -> None:
    transaction = open_metadata().begin()
    longest = b"user." + b"n" * (NAME_BYTES_MAX - 5)
    xattrs.set_xattr(transaction, ROOT_INO, longest, b"", now_ns=1)
    with pytest.raises(NameTooLong):
        xattrs.set_xattr(transaction, ROOT_INO, longest + b"n", b"", now_ns=1)
    for name in (b"user.", b"user.a\0b"):
        with pytest.raises(InvalidArgument):
            xattrs.set_xattr(transaction, ROOT_INO, name, b"", now_ns=1)


def test_the_list_of_names_has_a_limit() -> None:
    transaction = open_metadata().begin()
    count = XATTR_LIST_BYTES_MAX // 256
    made = [b"user." + b"%0250d" % index for index in range(count)]
    for name in made:
        xattrs.set_xattr(transaction, ROOT_INO, name, b"", now_ns=1)
    assert xattrs.list_xattrs(transaction, ROOT_INO) == made
    with pytest.raises(ValueTooLarge):
        xattrs.set_xattr(transaction, ROOT_INO, b"user.x", b"", now_ns=1)
    xattrs.set_xattr(transaction, ROOT_INO, made[0], b"another value is fine", now_ns=1)


def test_user_attributes_are_for_files_and_directories_only() -> None:
    transaction = open_metadata().begin()
    ino, _ = names.create(transaction, ROOT_INO, b"l", mode=stat.S_IFLNK | 0o777, uid=0, gid=0, target=b"t", now_ns=1)
    with pytest.raises(NotPermitted):
        xattrs.set_xattr(transaction, ino, b"user.a", b"", now_ns=1)
    xattrs.set_xattr(transaction, ino, b"security.a", b"", now_ns=1)
