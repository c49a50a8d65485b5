"""One scenario, with every single operation of a disk failing in turn (SQLite's way), until none is left to fail.

Each time nothing that was promised may be lost, every state found must be one that was, and a deep fsck finds nothing.
One disk's failure, whatever it is, may not even be noticed by users.
"""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from sim.clock import autojump
from sim.machine import ORDEALS, Machine, Step
from sim.programs import IS_LONG

SCENARIO = [
    Step("mkdir", 0),
    Step("write", 0, 0, 3),
    Step("fsync", 0),
    Step("write", 2, 0, 7),
    Step("rename", 0, 3, 1),
    Step("put", 1, 0, 5),
    Step("settle"),
    Step("unlink", 2),
    Step("restart"),
    Step("write", 3, 4, 3),
    Step("sync"),
]
"""Create, small and large write, fsync, rename over two directories, PUT, settle, delete, close, open."""

OPERATIONS_MAX = 5_000

STRIDE = 1 if IS_LONG else 3
"""Without the time that `make soak` has, every third operation: another third for the next ordeal."""


@pytest.mark.parametrize("ordeal", ORDEALS)
def test_nothing_promised_is_lost_whichever_operation_fails(ordeal: str) -> None:
    for operations in range(ORDEALS.index(ordeal) % STRIDE, OPERATIONS_MAX, STRIDE):
        machine = Machine(operations, Counter())

        async def main(machine: Machine = machine, operations: int = operations) -> bool:
            return await machine.run(SCENARIO, ordeal=ordeal, operations=operations)

        try:
            if not trio.run(main, clock=autojump()):
                return
        except BaseException as error:
            error.add_note(f"{ordeal} in operation {operations}")
            raise
    raise AssertionError(f"the scenario has more than {OPERATIONS_MAX} operations")
