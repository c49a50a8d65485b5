"""Whether a history of concurrent operations could have happened one after the other.

Each at one moment between its call and its return, with the results that it had (Wing and Gong, JPDC 17, 1993, with
the memory of Lowe, Concurrency and Computation 29, 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

A = TypeVar("A")
R = TypeVar("R")
S = TypeVar("S", bound=Hashable)


class Operation(NamedTuple, Generic[A, R]):
    """One operation: when it was called, when it returned, what was asked and what came back."""

    called: float
    returned: float
    action: A
    result: R


def find_order(
    history: Sequence[Operation[A, R]], initial: S, step: Callable[[S, A, R], S | None]
) -> list[Operation[A, R]] | None:
    """An order that explains the history, None if there is none.

    ``step`` gives the state after an action with that result, None where it cannot have had it.
    """
    pending = sorted(range(len(history)), key=lambda index: history[index].called)
    seen: set[tuple[int, S]] = set()
    order: list[int] = []

    def explain(done: int, state: S) -> bool:
        rest = [index for index in pending if not done >> index & 1]
        if not rest:
            return True
        if (done, state) in seen:
            return False
        seen.add((done, state))
        deadline = min(history[index].returned for index in rest)
        for index in rest:
            operation = history[index]
            if operation.called > deadline:
                break  # one that returned before this was called has to come first
            after = step(state, operation.action, operation.result)
            if after is not None:
                order.append(index)
                if explain(done | 1 << index, after):
                    return True
                order.pop()
        return False

    return [history[index] for index in order] if explain(0, initial) else None
