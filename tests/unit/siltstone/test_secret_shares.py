"""Shares: as many as are needed give the secret back, whichever they are; fewer fit any secret."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from siltstone.engine.format.label import Label
from siltstone.secret_shares import combine, split
from siltstone.settings import shares_of, vault_of
from siltstone.types import DiskId
from siltstone.vault import Vault


@given(st.binary(min_size=1, max_size=64), st.integers(1, 255), st.integers(1, 255), st.randoms(use_true_random=False))
def test_any_shares_that_are_enough_give_the_secret_back_and_fewer_do_not(
    secret: bytes, threshold: int, count: int, chance: random.Random
) -> None:
    threshold, count = min(threshold, count), max(threshold, count)
    places = chance.sample(range(1, 256), count)
    shares = split(secret, threshold=threshold, places=places)
    assert combine(chance.sample(shares, threshold)) == secret
    assert combine(chance.sample(shares, threshold - 1)) is None


def test_fewer_shares_than_are_needed_fit_every_secret_alike() -> None:
    """Of two shares of three any first byte is as likely: for each there is one third share that goes with them."""
    shares = split(b"s", threshold=3, places=[1, 2, 3])
    third = shares[2]
    found = {combine([shares[0], shares[1], third[:2] + bytes([value])]) for value in range(256)}
    assert found == {bytes([value]) for value in range(256)}


@given(st.integers(1, 20), st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_labels_of_all_disks_but_as_many_as_may_be_lost_have_the_key(
    reached: int, losses: int, chance: random.Random
) -> None:
    vault = Vault(bytes(range(64)))
    disks = [DiskId(number) for number in chance.sample(range(250), reached + chance.randrange(3))]
    shares = shares_of(vault, disks, reached - losses)
    labels = [Label(bytes(16), 8, b"", share) for share in shares.values()]
    found = vault_of(chance.sample(labels, max(1, reached - losses)))
    assert found is not None and found.key == vault.key
    assert (vault_of(labels[:1]) is None) == (reached - losses > 1), "one tells nothing where two are left"


@given(st.integers(0, 6), st.integers(4, 9), st.randoms(use_true_random=False))
def test_a_crash_in_the_middle_of_a_publication_leaves_enough_whatever_disks_came_and_went(
    written: int, now: int, chance: random.Random
) -> None:
    """Six disks have labels; of those that there are now some have new ones when the power fails. Two are lost."""
    vault = Vault(bytes(range(64)))
    before = shares_of(vault, [DiskId(number) for number in range(6)], 4)
    after = shares_of(vault, [DiskId(number) for number in range(now)], now - 2)
    disks = {**before, **dict(list(after.items())[:written])}
    present = [Label(bytes(16), 8, b"", share) for disk, share in disks.items() if disk < now]
    found = vault_of(chance.sample(present, len(present) - 2))
    assert found is not None and found.key == vault.key
