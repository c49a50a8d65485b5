"""What the labels of the disks say of a volume: its settings and its access keys, as HOME has them. Pure.

Secrets stand in it encrypted, as they do in HOME/keys.json. Beside the settings each label has a share of the key: any
two of them give it back, and one tells nothing of it (docs/decisions/0027).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec

from siltstone.config import VolumeConfig
from siltstone.engine.format.label import Label
from siltstone.errors import FormatInvalid
from siltstone.keys import StoredKey
from siltstone.secret_shares import PLACES_MAX, combine, split
from siltstone.types import DiskId
from siltstone.vault import KEY_BYTES, Vault

SHARES_NEEDED = 2
"""Shares that give the key back. Not more: how many labels are of one moment nobody knows after a crash."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that HOME holds besides the metadata."""

    config: VolumeConfig
    keys: tuple[StoredKey, ...]


def label_of(settings: Settings) -> Label:
    """The label that says it."""
    uuid, serial = UUID(settings.config.uuid).bytes, settings.config.serial
    return Label(uuid, serial, msgspec.json.encode(settings))


def settings_in(label: Label) -> Settings:
    """What a label says. Raises FormatInvalid, ConfigInvalid."""
    try:
        settings = msgspec.json.decode(label.text, type=Settings)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatInvalid(f"the label of a disk does not hold a volume's settings: {error}") from error
    settings.config.check()
    if UUID(settings.config.uuid).bytes != label.volume_uuid or settings.config.serial != label.serial:
        raise FormatInvalid("the label of a disk does not fit what it holds")
    return settings


def shares_of(vault: Vault | None, disks: Sequence[DiskId], left: int) -> dict[DiskId, bytes]:
    """A share of the key for each of these disks. ``left``: so many disks there are when as many are lost as may be.

    One disk tells nothing. Any two give the key back, also when one was written before a crash and the other after it,
    with whatever disks there were then; only where there may be one disk left, each has it whole.
    """
    if vault is None or not disks:
        return {}
    threshold = min(SHARES_NEEDED, max(1, left))
    shares = split(vault.key, threshold=threshold, places=[disk % PLACES_MAX + 1 for disk in disks])
    return dict(zip(disks, shares, strict=True))


def vault_of(labels: Iterable[Label]) -> Vault | None:
    """The key that the labels of some disks have shares of, of whatever age; None if they do not have enough of it."""
    by_threshold: dict[int, list[bytes]] = {}
    for label in labels:
        if label.share:
            by_threshold.setdefault(label.share[0], []).append(label.share)
    for threshold in sorted(by_threshold):
        key = combine(by_threshold[threshold])
        if key is not None and len(key) == KEY_BYTES:
            return Vault(key)
    return None
