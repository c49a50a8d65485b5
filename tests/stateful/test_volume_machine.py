"""A whole volume in simulation against a model: users at both doors, faults, crashes at any operation of a disk.

Holds promises 1-6 of the design: what was promised durable survives any crash and the loss of any two disks; everything
is visible at once, and durable within the commit interval; a crash leaves a state that was; no read returns bytes that
were not written; S3 writes and renames are atomic; a full pool refuses writes and loses nothing. Every example ends
with all disks back, everything read, and a deep fsck that finds nothing.
"""

from __future__ import annotations

import os
from collections import Counter

import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sim.clock import autojump
from sim.machine import Machine, Step
from sim.programs import programs

EXAMPLES = int(os.environ.get("SILTSTONE_SIM_EXAMPLES", "60"))


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(programs, st.integers(0, 2**16), st.random_module())
@example([Step("write", 0, 0, 6)], 0, None)
def test_a_volume_is_what_the_model_says_through_crashes_and_faults(program: list[Step], seed: int, _: object) -> None:
    trio.run(Machine(seed, Counter()).run, program, clock=autojump())
