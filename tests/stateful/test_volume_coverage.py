"""The simulation proves nothing by what it never does: every rule and every branch of repair must have run.

Fixed programs for what is rare, and random ones that are the same each time.
"""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.clock import autojump
from sim.machine import Machine, Step
from sim.programs import (
    RULES,
    fixed_program,
    holey_long_and_tight,
    thinned_and_tight,
    worn_and_tight,
    worn_long_and_tight,
)

PROGRAMS = 50
PIECES = 16
"""What every rule and branch is sure to come up in."""

BRANCHES = (
    "EIO",
    "HOME hung",
    "block repaired",
    "client hung up",
    "degraded read",
    "disk drained and removed",
    "disks lost with HOME",
    "disk given up",
    "disk returned after a rebuild",
    "disk returned that misses fills",
    "disk hung",
    "disk vanished in an operation",
    "fill redone",
    "full snapshot taken",
    "hedge lost",
    "hedge won",
    "hedged log read",
    "hole filled",
    "increment taken",
    "killed while closing",
    "killed while living",
    "killed while opening",
    "late effect",
    "log formed again",
    "log mended",
    "narrow slab",
    "orphan let go",
    "power lost in a fill",
    "power lost in a move",
    "power lost in a relocation",
    "power lost in a scrub",
    "power lost while closing",
    "power lost while living",
    "power lost while opening",
    "refused for want of room",
    "relocated",
    "rot in log/",
    "restored from a full snapshot",
    "restored from increments",
    "rot in slab/",
    "rot in snapshot/",
    "rows used again",
    "segment retired",
    "scrub mended",
    "settled",
    "slow read",
    "stripe freed",
    "stripe split",
    "stripe write failed",
    "stripes of another width",
    "tail of the log cut",
    "two disks lost at once",
    "unit moved",
)

WRITTEN = [Step("write", 0, 0, 7), Step("fsync", 0)]

WAITED = [Step("wait"), Step("wait"), Step("wait")]

DIRECTED: dict[str, list[Step]] = {
    "HOME hung": [*WRITTEN, Step("hang home", 9), Step("write", 1, 0, 3), Step("sync"), Step("restart"), *WRITTEN],
    "disk drained and removed": [*WRITTEN, Step("add disk"), Step("drain disk", 1, 11), Step("drain disk", 1, 11)],
    "client hung up": [*WRITTEN, Step("write", 1, 0, 3), Step("hang up", 0, 10)],
    "disk given up": [*WRITTEN, Step("lose disk", 0, 0), Step("replace disk", 1, 3)],
    "disk returned after a rebuild": [
        *WRITTEN,
        Step("lose disk", 0, 0),
        Step("add disk"),
        Step("rebuild"),
        Step("return disk"),
    ],
    "disk returned that misses fills": [
        *thinned_and_tight(0),
        Step("vanish", 0, 64),
        Step("settle"),
        Step("return disk"),
    ],
    "power lost in a fill": [*thinned_and_tight(0), Step("crash", 88), Step("settle")],
    "power lost in a move": [*WRITTEN, Step("crash", 104), Step("replace disk", 0, 1), *WAITED],
    "power lost in a relocation": [Step("crash", 935), *worn_long_and_tight(), Step("sync"), *WAITED],
    "power lost in a scrub": [*WRITTEN, Step("crash", 26), Step("scrub")],
    "relocated": [*worn_long_and_tight(), Step("sync"), *WAITED],
    "stripe split": [*holey_long_and_tight(), Step("settle"), *WAITED],
    "stripes of another width": [Step("lose disk", 0, 1), *WRITTEN, Step("return disk"), Step("return disk"), *WAITED],
    "unit moved": [*WRITTEN, Step("lose disk", 0, 0), Step("add disk"), Step("rebuild")],
    "EIO": [Step("fault", 1, 0), Step("fault", 2, 5), *WRITTEN, Step("write", 1, 0, 3), Step("sync"), Step("heal")],
    "block repaired": [*WRITTEN, *(Step("rot", index, place * 4097, 1) for index in (0, 1) for place in range(20))],
    "degraded read": [*WRITTEN, Step("lose disk", 0, 1)],
    "fill redone": [*worn_and_tight(0, 1), Step("crash", 43), Step("settle")],
    "hole filled": [*worn_and_tight(0, 1), Step("settle")],
    "hedge lost": [
        *WRITTEN,
        Step("write", 1, 0, 8),
        Step("fsync", 1),
        *(Step("slow disk", index, index + 1, 1) for index in range(6)),
    ],
    "hedge won": [*WRITTEN, *(Step("slow disk", index) for index in range(6))],
    "hedged log read": [
        Step("write", 0, 0, 3),
        Step("sync"),
        *(Step("slow disk", index, 0, 2 * round) for round in range(4) for index in range(6)),
    ],
    "disk hung": [*WRITTEN, *(Step("hang", index) for index in (0, 1)), *WRITTEN, *WRITTEN, *WRITTEN],
    "late effect": [
        *WRITTEN,
        *(Step("hang", index, 1) for index in (0, 1)),
        *WRITTEN,
        *WRITTEN,
        Step("let go"),
        *WRITTEN,
        Step("check"),
    ],
    "killed while closing": [*WRITTEN, Step("write", 0, 0, 7), Step("crash", 20, 1), Step("restart")],
    "killed while opening": [*WRITTEN, Step("crash", 60, 1), Step("restart"), Step("wait")],
    "power lost while closing": [*WRITTEN, Step("write", 0, 0, 7), Step("crash", 20, 0), Step("restart")],
    "power lost while opening": [
        *WRITTEN,
        Step("crash", 60),
        Step("restart"),
        Step("wait"),
        Step("crash"),
        Step("wait"),
    ],
    "rot in log/": [*WRITTEN, Step("write", 0, 0, 3), Step("sync"), Step("rot", 0, 9000, 3), Step("restart")],
    "rot in snapshot/": [
        *(WRITTEN * 3),
        *[Step("settle"), Step("snapshot")] * 2,
        *(Step("rot", i, 900, 5) for i in range(6)),
    ],
    "rot in slab/": [*WRITTEN, Step("rot", 0, 1, 1), Step("check")],
    "log formed again": [
        *WRITTEN,
        Step("wait"),  # until the files of the next segment are written ahead: they would take the faults
        *(Step("fault", index, 4) for index in (0, 1)),
        *WRITTEN,
        *WRITTEN,
        Step("heal"),
    ],
    "narrow slab": [Step("lose disk", 0, 1), *WRITTEN, Step("return disk"), Step("return disk"), Step("settle")],
    "scrub mended": [*WRITTEN, *(Step("rot", 0, place * 4097, 1) for place in range(9)), Step("scrub"), Step("check")],
    "segment retired": [*WRITTEN, Step("write", 0, 0, 3), Step("sync"), Step("settle"), Step("wait")],
    "orphan let go": [*WRITTEN, Step("hold", 0), Step("unlink", 0), Step("write held", 0, 1, 7), Step("release")],
    "refused for want of room": [
        Step("full", 1, 0),
        *(Step("write", path, 0, 9) for path in range(4)),
        Step("sync"),
        Step("unlink", 1),
        Step("settle"),
        Step("room"),
        *(Step("write", path, 0, 9) for path in range(4)),
    ],
    "rows used again": [*WRITTEN, Step("unlink", 0), Step("sync"), Step("wait"), *WRITTEN, Step("sync"), *WRITTEN],
    "slow read": [*WRITTEN, *(Step("read together", 0, 1, 0) for _ in range(3))],
    "stripe write failed": [Step("vanish", 0, 3), *WRITTEN, Step("vanish", 1, 9), *WRITTEN],
    "tail of the log cut": [*WRITTEN, Step("write", 0, 0, 3), Step("flush", 0), Step("crash")],
}


@pytest.fixture(scope="module")
def fired() -> Counter[str]:
    """Rules and branches, counted over all programs."""
    counted: Counter[str] = Counter()

    # Within @given the scheduler's seed is Hypothesis's, and so the same each time.
    @settings(max_examples=1, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.just(None))
    def run(_: None) -> None:
        for seed in range(PROGRAMS):
            trio.run(Machine(seed, counted).run, fixed_program(seed, PIECES), clock=autojump())

    run()
    return counted


@pytest.mark.parametrize("branch", DIRECTED)
def test_a_program_made_for_a_branch_takes_it(branch: str) -> None:
    counted: Counter[str] = Counter()
    for seed in range(8):
        trio.run(Machine(seed, counted).run, DIRECTED[branch], clock=autojump())
        if counted[branch]:
            return
    raise AssertionError(f"{branch} was never taken: {dict(counted)}")


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_runs(fired: Counter[str], rule: str) -> None:
    assert fired[rule], dict(fired)


@pytest.mark.parametrize("branch", [branch for branch in BRANCHES if branch not in DIRECTED])
def test_every_branch_of_repair_runs(fired: Counter[str], branch: str) -> None:
    assert fired[branch], dict(fired)
