"""Random programs for the machine: which rules, how often, with which numbers."""

from __future__ import annotations

import os
import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sim.machine import Step

EXAMPLES_DEFAULT = 60

_wanted = int(os.environ.get("SILTSTONE_SIM_EXAMPLES", "0"))

IS_LONG = _wanted > EXAMPLES_DEFAULT or settings().max_examples > 100
"""Whether there is time: SILTSTONE_SIM_EXAMPLES says so, or a profile with more examples than Hypothesis's own."""

EXAMPLES = _wanted or (settings().max_examples if IS_LONG else EXAMPLES_DEFAULT)
"""Random programs to run."""

RULES: dict[str, int] = {
    "write": 8,
    "write together": 3,
    "write held": 1,
    "read together": 1,
    "truncate": 2,
    "mkdir": 2,
    "rmdir": 1,
    "quota": 2,
    "rename": 3,
    "rename directory": 1,
    "link": 1,
    "clone": 2,
    "snapshot tree": 3,
    "unlink": 2,
    "hold": 1,
    "release": 1,
    "fsync": 2,
    "flush": 1,
    "sync": 1,
    "watch": 3,
    "trash": 1,
    "undelete": 2,
    "settle": 2,
    "wait": 1,
    "put": 3,
    "copy": 2,
    "multipart": 1,
    "get": 1,
    "delete": 1,
    "small files": 2,
    "thin out": 1,
    "hang up": 2,
    "crash": 4,
    "restart": 1,
    "lose home": 2,
    "snapshot": 1,
    "lose disk": 2,
    "vanish": 2,
    "return disk": 2,
    "add disk": 2,
    "drain disk": 2,
    "replace disk": 1,
    "rebuild": 1,
    "fault": 3,
    "heal": 1,
    "hang": 2,
    "let go": 1,
    "hang home": 1,
    "home answers": 1,
    "slow disk": 1,
    "rot": 2,
    "full": 1,
    "room": 1,
    "jump": 1,
    "check": 1,
    "scrub": 1,
}
"""Every rule with its weight."""

_small = st.integers(0, 11)
_operations = st.one_of(st.integers(0, 12), st.integers(0, 60), st.integers(0, 400))
_places = st.integers(0, 2**20)


def _step(rule: str) -> SearchStrategy[Step]:
    a = _operations if rule == "crash" else _small
    b = _operations if rule in {"vanish", "hang up"} else _places if rule in {"rot", "full"} else _small
    return st.builds(Step, st.just(rule), a, b, _small)


_steps = st.sampled_from([rule for rule, weight in RULES.items() for _ in range(weight)]).flatmap(_step)


def worn_and_tight(p: int, q: int) -> list[Step]:
    """A stripe of three small files of which one died, little room, and another small one in the log."""
    small = [Step("write", path, 0, 3) for path in (p, q, 6)]
    large = Step("write", 6, 9, 6)
    return [*small, large, Step("settle"), Step("unlink", p), Step("full", 1), Step("write", p, 0, 3), Step("sync")]


def thinned_and_tight(p: int) -> list[Step]:
    """Stripes that small files share, half of which died, little room, and others in the log: holes are filled."""
    small = [Step("small files", 0, 11), Step("write", 6, 9, 6), Step("settle"), Step("thin out", p)]
    return [*small, Step("full", 1), Step("small files", 12, 7), Step("sync")]


def worn_long_and_tight() -> list[Step]:
    """Long stripes of which the most is dead, and hardly any room: what lives in them is relocated."""
    files = [step for path in range(5) for step in (Step("write", path, 0, 8), Step("fsync", path))]
    return [*files, Step("full", 1, 500_000), Step("write", 6, 0, 9), *(Step("write", path, 7, 8) for path in range(5))]


def holey_long_and_tight() -> list[Step]:
    """Long stripes with holes in them, no room, and what made the holes in the log: they are split and filled."""
    files = [step for path in range(3) for step in (Step("write", path, 0, 9), Step("fsync", path))]
    filler = [Step("full", 1), Step("write", 6, 0, 8), Step("write", 6, 9, 8)]
    return [*files, *filler, *(Step("write", path, 7, 5) for path in range(3)), Step("sync")]


def motifs(p: int, q: int, size: int, count: int) -> list[list[Step]]:
    """What hardly ever comes about by chance: steps that bring a rule of the order in time (T1 ... T10) to bear.

    ``p`` and ``q`` are paths, ``size`` the number of a size, ``count`` operations until the crash (0: at once).
    """
    written = [Step("write", p, 0, size), Step("fsync", p)]
    lost = [*written, Step("lose disk", p, p), Step("add disk")]
    other = [Step("write", q, 0, size), Step("flush", q)]
    return [
        [*written, Step("write", p, 0, size), Step("flush", p), *other, Step("crash", count)],
        [*written, Step("unlink", p), *other, Step("crash", count)],
        [*written, Step("truncate", p), *other, Step("crash", count)],
        [Step("write", p, 0, size), Step("rename", p, q, 1), Step("mkdir"), Step("put", 1, 0, 3), Step("crash", count)],
        [Step("write", p, 0, size), Step("link", p, q), *written, Step("crash", count), Step("restart")],
        [*written, Step("hold", p), Step("unlink", p), Step("write held", 0, 0, size), Step("release"), *other],
        [*written, *other, Step("crash", count), Step("settle"), Step("wait")],
        [*written, Step("read together", p, q, size)],
        [*written, Step("full", p, count), *other, Step("sync"), Step("unlink", p), Step("settle"), Step("room")],
        [
            Step("lose disk", p, q),
            *written,
            Step("return disk", p),
            Step("return disk"),
            Step("lose disk", q + 1, q + 2),
        ],
        [Step("mkdir"), Step("put", 1, 0, size), Step("copy", 1, 3), Step("write", 2, 0, size), Step("crash", count)],
        [Step("mkdir"), *written, *other, Step("clone", 0, 0, 1), *written, Step("clone", p, q), Step("crash", count)],
        [Step("mkdir"), *written, Step("write", q, 0, size), Step("crash", count), Step("clone", 0, 0, 1), *other],
        [Step("vanish", p, count), *written, *other, Step("vanish", q, count), *written],
        [Step("crash", count), *written, *other, Step("restart"), Step("crash", count), *written],
        [*worn_and_tight(p, q), Step("crash", count), Step("settle"), Step("write", p, 2, 3), Step("sync")],
        [*thinned_and_tight(p), Step("crash", count), Step("settle"), Step("lose disk", p, q)],
        [*thinned_and_tight(p), Step("hang up", 0, count), Step("wait"), Step("crash", count), Step("lose disk", p, q)],
        [*thinned_and_tight(p), Step("vanish", q, count), Step("settle"), Step("return disk"), Step("lose disk", p, q)],
        [*thinned_and_tight(p), *[Step("small files", q, 8), Step("thin out", p, q), Step("settle")] * 2],
        [*worn_long_and_tight(), Step("crash", count), Step("sync"), *[Step("wait")] * 3, Step("lose disk", p, q)],
        [*written, *other, Step("settle"), Step("crash", count), Step("replace disk", p, 1), *[Step("wait")] * 3],
        [*holey_long_and_tight(), Step("crash", count), Step("settle"), Step("lose disk", p, q)],
        [*lost, Step("crash", count), Step("rebuild"), Step("return disk")],
        [*written, Step("add disk"), Step("drain disk", p, 11), Step("drain disk", p, 11), Step("lose disk", p, q)],
        [*written, *other, Step("settle"), Step("rot", p, count, 1), Step("crash", count), Step("scrub")],
        [*written, Step("hang", p, size, count), *written, *other, Step("let go"), *other, Step("crash", count)],
        [*written, Step("settle"), *other, Step("settle"), Step("lose home", p, q, size)],
        [
            *written,
            Step("settle"),
            *other,
            Step("snapshot"),
            Step("unlink", p),
            Step("settle"),
            *written,
            Step("lose home", p, q, size),
        ],
        [
            *written,
            Step("settle"),
            Step("crash", count),
            Step("snapshot"),
            *other,
            Step("settle"),
            Step("lose home", p, q, size),
        ],
        [
            *[Step("small files", p, 8), Step("settle"), Step("snapshot")] * 3,
            Step("rot", p, count, 5),
            Step("lose home", p, q),
        ],
        [*lost, Step("settle"), Step("snapshot"), Step("drain disk", q, 11), Step("lose home", p, p, 1), *written],
        [*thinned_and_tight(p), Step("crash", count), Step("settle"), Step("lose home", p, q, 1)],
    ]


def _motif(index: int, p: int, q: int, size: int, count: int) -> list[Step]:
    found = motifs(p, q, size, count)
    return found[index % len(found)]


_motifs = st.builds(
    _motif,
    st.integers(0, 32),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(3, 8),
    st.one_of(st.sampled_from((0, 3)), st.integers(0, 150)),
)
_pieces = st.one_of(_steps.map(lambda step: [step]), _steps.map(lambda step: [step]), _motifs)

programs = st.one_of(
    st.lists(_pieces, min_size=1, max_size=8),
    st.lists(_pieces, min_size=6, max_size=16),
    st.lists(_pieces, min_size=15, max_size=40),
).map(lambda pieces: [step for piece in pieces for step in piece])


def fixed_program(seed: int, pieces: int) -> list[Step]:
    """The program of a seed, the same whatever version of Hypothesis there is."""
    source = random.Random(seed)
    rules = [rule for rule, weight in RULES.items() for _ in range(weight)]
    program: list[Step] = []
    for _ in range(pieces):
        if source.random() < 0.3:
            p, q, size = source.randrange(7), source.randrange(7), source.randint(3, 8)
            program += source.choice(motifs(p, q, size, source.choice((0, 3, *range(0, 150, 7)))))
            continue
        rule, count = source.choice(rules), source.randrange(source.choice((12, 60, 400)))
        a = count if rule == "crash" else source.randrange(12)
        b = count if rule in {"vanish", "hang up"} else source.randrange(2**20 if rule in {"rot", "full"} else 12)
        program.append(Step(rule, a, b, source.randrange(12)))
    return program
