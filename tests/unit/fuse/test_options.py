"""What stands after -o: what it means, and that nothing is passed over that is not known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siltstone.errors import InvalidArgument
from siltstone.fuse.options import (
    DEFAULTS,
    KERNEL_FLAGS,
    KNOWN_INODES_LEAST,
    PASSED_OVER,
    AccessTimes,
    MountOptions,
    parse_options,
)


def test_nothing_is_the_default_and_so_is_what_only_others_read() -> None:
    for text in ("", ",", "defaults", "auto,nofail,_netdev,x-systemd.automount,comment=x", "defaults,,user"):
        assert parse_options(text) == DEFAULTS


def test_each_setting_has_its_place() -> None:
    text = "ro,relatime,entry_timeout=1,attr_timeout=0.5,negative_timeout=0,uid=1000,gid=0,umask=027,writeback"
    assert parse_options(text + ",inode_cache=5000") == MountOptions(
        kernel=frozenset({"ro"}),
        entry_seconds=1,
        attribute_seconds=0.5,
        negative_seconds=0,
        access_times=AccessTimes.RELATIVE,
        uid=1000,
        gid=0,
        umask=0o27,
        writeback=True,
        known_inodes_max=5000,
    )


@pytest.mark.parametrize(
    "text, kernel",
    [
        ("ro,rw", {"rw"}),
        ("rw,ro", {"ro"}),
        ("suid,dev,noexec,exec", {"suid", "dev", "exec"}),
        ("allow_other,allow_root", {"allow_root"}),
        ("nosuid,nodev,ro", {"nosuid", "nodev", "ro"}),
    ],
)
def test_the_last_of_two_that_contradict_counts(text: str, kernel: set[str]) -> None:
    assert parse_options(text).kernel == kernel


@pytest.mark.parametrize(
    "text",
    [
        *("nonsense", "ro=1", "uid", "uid=", "uid=me", "uid=-1", "uid=4294967295", "umask=888", "umask=7777"),
        *("attr_timeout=-1", "attr_timeout=soon", "attr_timeout=1e9", f"inode_cache={KNOWN_INODES_LEAST - 1}"),
        *("relatime=1", "fsname=x", "subtype=x", "fd=3", "rootmode=40000", "RO", " ro"),
    ],
)
def test_what_is_not_understood_is_named(text: str) -> None:
    word = text.partition("=")[0]
    with pytest.raises(InvalidArgument, match=word):
        parse_options(f"ro,{text},rw")


@given(st.lists(st.sampled_from(sorted(KERNEL_FLAGS | PASSED_OVER))))
def test_words_may_stand_in_any_order_and_number(words: list[str]) -> None:
    options = parse_options(",".join(words))
    assert options.kernel <= KERNEL_FLAGS and not options.kernel - set(words)
    assert options.is_read_only == (next((word for word in reversed(words) if word in ("ro", "rw")), "") == "ro")


def test_times_can_be_limited_and_never_grow_by_it() -> None:
    options = parse_options("attr_timeout=0.5").limited(1)
    assert (options.entry_seconds, options.attribute_seconds, options.negative_seconds) == (1, 0.5, 1)
