"""The days of lifecycle rules, and who carries the rules out, as a volume's settings say."""

from __future__ import annotations

from siltstone.config import DAY_SECONDS, VolumeConfig
from siltstone.ports import Clock
from siltstone.s3gw.lifecycle_rules import REAL_DAYS, Calendar
from siltstone.s3gw.lifecycle_work import Lifecycle
from siltstone.s3gw.store import Store


def calendar_of(config: VolumeConfig) -> Calendar:
    """The days of a volume."""
    return REAL_DAYS if config.lifecycle_day == DAY_SECONDS else Calendar(round(config.lifecycle_day * 1e9))


def lifecycle_of(config: VolumeConfig, store: Store, clock: Clock) -> Lifecycle:
    """Who carries out the rules of a volume's buckets."""
    return Lifecycle(store, clock, calendar_of(config), per_second=config.lifecycle_per_second)
