"""Random programs for the machine: which rules, how often, with which numbers."""

from __future__ import annotations

import os

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
    "truncate": 2,
    "mkdir": 2,
    "rmdir": 1,
    "rename": 3,
    "rename directory": 1,
    "link": 1,
    "unlink": 2,
    "hold": 1,
    "release": 1,
    "fsync": 2,
    "flush": 1,
    "sync": 1,
    "settle": 2,
    "wait": 1,
    "put": 3,
    "copy": 2,
    "multipart": 1,
    "get": 1,
    "delete": 1,
    "crash": 4,
    "restart": 1,
    "lose disk": 2,
    "vanish": 2,
    "return disk": 2,
    "fault": 3,
    "heal": 1,
    "rot": 2,
    "full": 1,
    "room": 1,
    "jump": 1,
    "check": 1,
}
"""Every rule with its weight."""

_small = st.integers(0, 11)
_operations = st.one_of(st.integers(0, 12), st.integers(0, 60), st.integers(0, 400))
_places = st.integers(0, 2**20)


def _step(rule: str) -> SearchStrategy[Step]:
    a = _operations if rule == "crash" else _small
    b = _operations if rule == "vanish" else _places if rule in {"rot", "full"} else _small
    return st.builds(Step, st.just(rule), a, b, _small)


_steps = st.sampled_from([rule for rule, weight in RULES.items() for _ in range(weight)]).flatmap(_step)

programs = st.one_of(
    st.lists(_steps, min_size=1, max_size=12),
    st.lists(_steps, min_size=10, max_size=30),
    st.lists(_steps, min_size=25, max_size=60),
)
