"""Generators of random numbers begin by a seed, and go on where they were."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np

from nbcloud.sessions.kernel import randomness

BEGIN = """
from nbcloud.sessions.kernel import randomness
import random, sys
assert "numpy" not in sys.modules
randomness.begin(11)
import numpy
print(random.random(), numpy.random.rand())
"""


def test_numpy_begins_by_the_seed_though_it_is_imported_later():
    said = [subprocess.run([sys.executable, "-c", BEGIN], capture_output=True, text=True, check=True).stdout]
    randomness.begin(11)
    assert said == [f"{random.random()} {np.random.rand()}\n"]


def test_they_go_on_where_they_were():
    randomness.begin(3)
    random.random()
    state = randomness.state()
    expected = random.random(), np.random.rand()
    randomness.go_on(state)
    assert (random.random(), np.random.rand()) == expected
