"""What the labels of the disks say of a volume: its settings and its access keys, as HOME has them. Pure.

Secrets stand in it in clear, as they do in HOME/keys.json: signatures cannot be checked without them. Labels are files
of mode 0600 on the disks (docs/decisions/0013).
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from siltstone.config import VolumeConfig
from siltstone.engine.format.label import Label
from siltstone.errors import FormatInvalid
from siltstone.keys import AccessKey


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that HOME holds besides the metadata."""

    config: VolumeConfig
    keys: tuple[AccessKey, ...]


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
