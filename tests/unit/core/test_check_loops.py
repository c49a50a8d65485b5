"""Circles of directories are found, and nothing else is."""

from __future__ import annotations

import trio
from hypothesis import example, given
from hypothesis import strategies as st

from siltstone.core.check.loops import Tree
from siltstone.types import Ino


def circles(parents: dict[int, int]) -> set[frozenset[int]]:
    """The model: follow each directory up for as long as there can be something new."""
    found = set()
    for start in parents:
        at: int | None = start
        for _ in parents:
            at = parents.get(at) if at is not None else None
        if at in parents:
            circle = [at]
            while parents[circle[-1]] != at:
                circle.append(parents[circle[-1]])
            found.add(frozenset(circle))
    return found


# Few buckets and few numbers, so that there are circles of every length, over buckets and within.
inos = st.integers(0, 5).flatmap(lambda serial: st.sampled_from([0, 1, 255]).map(lambda part: serial << 8 | part))


@given(parents=st.dictionaries(inos, inos, max_size=12))
@example(parents={7: 7})
@example(parents={256: 512, 512: 256, 768: 256})
def test_loops_are_the_circles_of_the_model(parents: dict[int, int]) -> None:
    tree = Tree()
    for child, parent in parents.items():
        tree.add(Ino(child), Ino(parent))
    found = trio.run(tree.loops)
    assert {frozenset(circle) for circle in found} == circles(parents)
    for circle in found:
        assert circle[0] == min(circle)
        assert all(parents[a] == b for a, b in zip(circle, [*circle[1:], circle[0]], strict=True))
