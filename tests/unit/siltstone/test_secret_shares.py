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
from sim.randomness import SimRandom


@given(st.binary(min_size=1, max_size=64), st.integers(1, 255), st.integers(1, 255), st.randoms(use_true_random=False))
def test_any_shares_that_are_enough_give_the_secret_back_and_fewer_do_not(
    secret: bytes, threshold: int, count: int, chance: random.Random
) -> None:
    threshold, count = min(threshold, count), max(threshold, count)
    shares = split(secret, threshold=threshold, count=count, random=chance.randbytes)
    assert combine(chance.sample(shares, threshold)) == secret
    assert combine(chance.sample(shares, threshold - 1)) is None


def test_fewer_shares_than_are_needed_fit_every_secret_alike() -> None:
    """Of two shares of three any first byte is as likely: for each there is one third share that goes with them."""
    shares = split(b"s", threshold=3, count=3, random=random.Random(1).randbytes)
    third = shares[2]
    found = {combine([shares[0], shares[1], third[:2] + bytes([value])]) for value in range(256)}
    assert found == {bytes([value]) for value in range(256)}


@given(st.integers(1, 20), st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_labels_of_all_disks_but_as_many_as_may_be_lost_have_the_key(
    reached: int, losses: int, chance: random.Random
) -> None:
    vault = Vault(bytes(range(64)))
    disks = [DiskId(number) for number in chance.sample(range(1000), reached + chance.randrange(3))]
    shares = shares_of(vault, disks, reached - losses, SimRandom(chance.randrange(99)))
    old = shares_of(vault, disks, reached, SimRandom(chance.randrange(99)))
    labels = [Label(bytes(16), 8, b"", share) for share in shares.values()]
    left = chance.sample(labels, max(1, reached - losses))
    found = vault_of([*left, *(Label(bytes(16), 7, b"", share) for share in list(old.values())[:-1])])
    assert found is not None and found.key == vault.key
    assert vault_of(left[1:]) is None
