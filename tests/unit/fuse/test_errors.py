"""The table of errno, and what a failing handler may do to a mount."""

from __future__ import annotations

import errno
import logging

import pyfuse3
import pytest
import trio

from siltstone import errors
from siltstone.fuse.errors import ERRNO, answered, answered_of_inode, errno_of


def leaves(base: type[errors.SiltstoneError]) -> set[type[errors.SiltstoneError]]:
    """All classes below ``base`` that the vocabulary defines and that have no class of it below them."""
    found = set()
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            found |= leaves(child) or {child}
    return found


def test_every_leaf_of_the_tree_of_errors_has_its_own_line_in_the_table() -> None:
    assert leaves(errors.SiltstoneError) - ERRNO.keys() == set()


def test_every_errno_of_the_table_is_a_real_one() -> None:
    assert all(number in errno.errorcode for number in ERRNO.values())


def test_an_error_that_is_not_in_the_table_has_the_errno_of_its_nearest_parent() -> None:
    class Odd(errors.DirectoryNotEmpty):
        pass

    class OddCorruption(errors.Corrupt):
        pass

    assert errno_of(Odd("x")) == errno.ENOTEMPTY
    assert errno_of(OddCorruption("x")) == errno.EIO


def raised_by(handler_error: BaseException, *, of_inode: bool = False) -> int:
    """The errno that the kernel gets when a handler raises."""

    async def handler() -> None:
        raise handler_error

    with pytest.raises(pyfuse3.FUSEError) as raised:
        trio.run(answered_of_inode(handler) if of_inode else answered(handler))
    return raised.value.errno


def test_a_request_that_breaks_a_rule_is_answered_and_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    assert raised_by(errors.AlreadyExists("x")) == errno.EEXIST
    assert not caplog.records


def test_a_failure_of_the_world_is_answered_and_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    assert raised_by(errors.StripeUnreadable("stripe 7")) == errno.EIO
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and "stripe 7" in record.getMessage() and record.exc_info is None


def test_an_unexpected_exception_is_eio_and_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    assert raised_by(ZeroDivisionError("oops")) == errno.EIO
    (record,) = caplog.records
    assert record.exc_info is not None


def test_an_errno_that_a_handler_chose_passes_unchanged() -> None:
    assert raised_by(pyfuse3.FUSEError(errno.EXDEV)) == errno.EXDEV


def test_a_missing_inode_makes_the_kernel_look_again_and_a_missing_name_does_not() -> None:
    assert raised_by(errors.NotFound("x"), of_inode=True) == errno.ESTALE
    assert raised_by(errors.NotFound("x")) == errno.ENOENT


def test_cancellation_passes_through_a_handler() -> None:
    @answered
    async def handler() -> None:
        await trio.sleep_forever()

    async def main() -> bool:
        with trio.move_on_after(0) as scope:
            await handler()
        return scope.cancelled_caught

    assert trio.run(main)
