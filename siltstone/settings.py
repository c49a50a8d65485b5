"""What the labels of the disks say of a volume: its settings and its access keys, as HOME has them. Pure.

Secrets stand in it encrypted, as they do in HOME/keys.json. Beside the settings each label has a share of the key: all
disks but as many as may be lost give it back, and fewer tell nothing of it (docs/decisions/0027).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec

from siltstone.config import VolumeConfig
from siltstone.engine.format.label import Label
from siltstone.errors import FormatInvalid
from siltstone.keys import StoredKey
from siltstone.ports import Random
from siltstone.secret_shares import SHARES_MAX, combine, split
from siltstone.types import DiskId
from siltstone.vault import KEY_BYTES, Vault


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


def shares_of(vault: Vault | None, disks: Sequence[DiskId], threshold: int, random: Random) -> dict[DiskId, bytes]:
    """A share of the key for each of these disks, any ``threshold`` of which give it back."""
    if vault is None or not disks:
        return {}
    holders = sorted(disks)[:SHARES_MAX]
    threshold = max(1, min(threshold, len(holders)))
    shares = split(vault.key, threshold=threshold, count=len(holders), random=random.bytes)
    return dict(zip(holders, shares, strict=True))


def vault_of(labels: Iterable[Label]) -> Vault | None:
    """The key that the labels of some disks have shares of; None if no label has enough of them. The key never changes,
    so those of older labels are as good."""
    by_serial: dict[int, list[bytes]] = {}
    for label in labels:
        by_serial.setdefault(label.serial, []).append(label.share)
    for serial in sorted(by_serial, reverse=True):
        key = combine(by_serial[serial])
        if key is not None and len(key) == KEY_BYTES:
            return Vault(key)
    return None
