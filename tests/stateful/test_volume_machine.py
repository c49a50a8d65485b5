"""A whole volume in simulation against a model: users at both doors, faults, crashes at any operation of a disk.

Holds promises 1-6 of the design: what was promised durable survives any crash and the loss of any two disks; everything
is visible at once, and durable within the commit interval; a crash leaves a state that was; no read returns bytes that
were not written; S3 writes and renames are atomic; a full pool refuses writes and loses nothing. Every example ends
with all disks back, everything read, and a deep fsck that finds nothing.
"""

from __future__ import annotations

from collections import Counter

import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sim.clock import autojump
from sim.machine import Machine, Step
from sim.programs import EXAMPLES, programs
from sim.tally import note_example


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(programs, st.integers(0, 2**16), st.random_module())
@example([Step("write", 0, 0, 6)], 0, None)
@example([Step("write", 2, 7, 8), Step("write together", 11, 5, 11)], 66, None)
@example([Step("lose disk", 11, 11), Step("write", 5, 7, 3), Step("write together", 9, 9, 7)], 5, None)
@example([Step("write", 3, 10, 9), Step("write", 8, 10, 8)], 114, None)
@example([Step("write", 5, 9, 7), Step("rename", 3, 1), Step("check")], 40, None)
@example([Step("mkdir", 6), Step("rmdir", 0), Step("mkdir", 6), Step("delete", 1), Step("crash", 3, 3)], 369, None)
@example(
    [Step("mkdir"), Step("put", 1, 0, 10), Step("full", 3, 35457), Step("write together", 0, 4, 7), Step("delete", 3)],
    0,
    None,
)
@example(
    [
        Step("return disk", 0, 11),
        Step("crash", 100),
        Step("write", 0, 0, 7),
        Step("fsync"),
        Step("write", 3, 0, 7),
        Step("flush", 3),
        Step("restart"),
        Step("crash", 100),
        Step("write", 0, 0, 7),
        Step("fsync"),
        Step("hang up", 1, 272, 3),
        Step("fault", 8, 6, 5),
        Step("write", 3, 0, 4),
        Step("fsync", 3),
        Step("add disk"),
        Step("drain disk", 3, 11),
        Step("drain disk", 3, 11),
        Step("lose disk", 3, 5),
        Step("fault", 8, 6, 5),
        Step("write", 4, 3, 7),
    ],
    35,
    None,
)
@example(
    [
        Step("add disk"),
        Step("write", 0, 0, 3),
        Step("truncate"),
        Step("hang up"),
        Step("settle", 11),
        Step("small files", 2, 8),
        Step("settle"),
        Step("snapshot"),
        Step("rot", 2, 31, 5),
        Step("lose home", 2, 1),
        Step("small files", 0, 11),
        Step("write", 6, 9, 6),
        Step("thin out"),
        Step("full", 1),
        Step("small files", 12, 7),
        Step("sync"),
        Step("small files", 5, 8),
        Step("settle"),
        Step("small files", 5, 8),
        Step("settle"),
        Step("crash"),
        Step("write", 4, 0, 6),
        Step("write", 3, 0, 6),
        Step("flush", 3),
        Step("crash"),
        Step("write together", 5, 5, 8),
    ],
    6088,
    None,
)
@example([Step("write together"), Step("lose disk", 0, 1), Step("hang up", 0, 11)], 0, None)
@example(
    [
        Step("watch"),
        Step("trash", 1),
        Step("mkdir"),
        Step("write", 2, 0, 7),
        Step("write", 0, 0, 5),
        Step("hold", 2),
        Step("truncate", 0, 3),
        Step("unlink", 2),
        Step("put", 1, 0, 10),
        Step("delete", 1),
        Step("undelete", 0),
        Step("unlink", 0),
        Step("unlink", 2),
        Step("sync"),
        Step("settle"),
        Step("crash", 3),
        Step("write", 1, 0, 7),
        Step("watch"),
        Step("undelete", 1),
        Step("undelete", 2),
        Step("lose disk", 1),
        Step("scrub"),
        Step("clone"),
        Step("rename directory"),
        Step("watch"),
        Step("check"),
    ],
    3,
    None,
)
def test_a_volume_is_what_the_model_says_through_crashes_and_faults(program: list[Step], seed: int, _: object) -> None:
    fired: Counter[str] = Counter()
    trio.run(Machine(seed, fired).run, program, clock=autojump())
    note_example(fired)
