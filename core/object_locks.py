"""What a lock on a version of an object forbids. Pure.

A legal hold forbids until it is taken off; a retention until its time, one in COMPLIANCE mode to everybody, one in
GOVERNANCE mode to who may not bypass it. Forbidden is to delete the version for good, to shorten the retention, and
through the mount to change its bytes.
"""

from __future__ import annotations

from siltstone.core.object_types import Edit
from siltstone.errors import NotPermitted
from siltstone.meta.records import Object

COMPLIANCE = "COMPLIANCE"
GOVERNANCE = "GOVERNANCE"


def is_locked(record: Object | None, now_ns: int) -> bool:
    """Whether a version may not be deleted or changed."""
    return record is not None and (record.legal_hold or (bool(record.lock_mode) and now_ns < record.lock_until_ns))


def check_removable(record: Object | None, now_ns: int, *, may_bypass: bool) -> None:
    """Raise NotPermitted when a version may not be deleted."""
    if record is None or not is_locked(record, now_ns):
        return
    if record.legal_hold or record.lock_mode == COMPLIANCE or not may_bypass:
        raise NotPermitted("the object is locked, and cannot be deleted or overwritten for good")


def check_retention(record: Object, mode: str, until_ns: int, now_ns: int, *, may_bypass: bool) -> None:
    """Raise NotPermitted when a retention may not be replaced by another (an empty ``mode``: by none)."""
    if not record.lock_mode or now_ns >= record.lock_until_ns:
        return
    is_another = until_ns < record.lock_until_ns or record.lock_mode != mode
    if is_another and (record.lock_mode == COMPLIANCE or not may_bypass):
        raise NotPermitted("the object's retention cannot be shortened or weakened before its end")


def apply_edit(record: Object, edit: Edit, now_ns: int) -> None:
    """Change what is kept with a version. Raises NotPermitted."""
    if edit.tags is not None:
        record.tags = edit.tags
    if edit.grants is not None:
        record.grants = list(edit.grants)
    if edit.retention is not None:
        mode, until_ns = edit.retention
        check_retention(record, mode, until_ns, now_ns, may_bypass=edit.may_bypass)
        record.lock_mode, record.lock_until_ns = mode, until_ns
    if edit.legal_hold is not None:
        record.legal_hold = edit.legal_hold
