"""A log-structured cleaner, simulated: what the same overwrites cost where space comes back by copying what lives.

Pages are written to the end of a log of segments; when free segments run out, a segment is chosen, its living pages are
written again, and it is free. ``greedy`` takes the one with fewest living pages, ``cost-benefit`` the one with the most
(1 - u) * age / (1 + u) (M. Rosenblum, J. Ousterhout, 1992). For uniform overwrites at a living share of 0.9 theory has
5.2 pages written for every page of the user (P. Desnoyers, "Analytic modeling of SSD write performance", 2012).
"""

from __future__ import annotations

import random
from collections.abc import Callable

SEGMENT_PAGES = 128
FREE_SEGMENTS = 4
"""Cleaning begins with fewer. They come on top of the space of which a share lives, as theory has it."""

Pick = Callable[[random.Random, int], int]
"""Which of so many pages is overwritten next."""


def uniform(source: random.Random, count: int) -> int:
    """Any page."""
    return source.randrange(count)


def hot_and_cold(source: random.Random, count: int) -> int:
    """In 80 % of the cases one of the first 20 %."""
    hot = count // 5
    return source.randrange(hot) if source.random() < 0.8 else source.randrange(hot, count)


def write_amplification(live_share: float, pick: Pick, *, greedy: bool, segments: int = 300, seed: int = 0) -> float:
    """Pages written for each page of the user, in the steady state."""
    source = random.Random(seed)
    pages = int(segments * SEGMENT_PAGES * live_share)
    segments += FREE_SEGMENTS
    place = [-1] * pages
    held: list[set[int]] = [set() for _ in range(segments)]
    touched = [0] * segments
    free = list(range(2, segments))
    # What is cleaned is older than what users write: it goes to segments of its own.
    heads, filled = [0, 1], [0, 0]
    clock = written = 0

    def append(page: int, stream: int) -> None:
        nonlocal written
        if filled[stream] == SEGMENT_PAGES:
            heads[stream], filled[stream] = free.pop(), 0
        head = heads[stream]
        if place[page] >= 0:
            held[place[page]].discard(page)
            touched[place[page]] = clock
        place[page] = head
        held[head].add(page)
        touched[head] = clock
        filled[stream] += 1
        written += 1

    def clean() -> None:
        candidates = [segment for segment in range(segments) if segment not in heads and segment not in free]
        if greedy:
            victim = min(candidates, key=lambda segment: len(held[segment]))
        else:
            victim = max(candidates, key=lambda segment: _gain(len(held[segment]), clock - touched[segment]))
        for page in list(held[victim]):
            append(page, 1)
        free.append(victim)

    for page in range(pages):
        append(page, 0)
    rounds = 4 * pages
    for number in range(rounds):
        clock += 1
        append(pick(source, pages), 0)
        while len(free) < FREE_SEGMENTS:
            clean()
        if number == rounds // 2:
            written = 0
    return written / (rounds - rounds // 2 - 1)


def _gain(live: int, age: int) -> float:
    share = live / SEGMENT_PAGES
    return (1 - share) * age / (1 + share)
