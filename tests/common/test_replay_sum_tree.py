"""The tree against plain arithmetic, and machine code where nothing can be kept of it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.replay.sum_tree import SumTree

VALUES = st.one_of(st.just(0.0), st.floats(1e-12, 1e12))


@pytest.mark.parametrize("capacity", [1, 2, 5, 8, 100])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_sums_minima_and_places(capacity: int, data: st.DataObject) -> None:
    tree, plain = SumTree(capacity), np.zeros(capacity)
    slots = st.integers(0, capacity - 1)
    for changes in data.draw(st.lists(st.lists(st.tuples(slots, VALUES)), max_size=5)):
        tree.set(np.array([s for s, _ in changes], np.int64), np.array([v for _, v in changes]))
        for slot, value in changes:
            plain[slot] = value
    np.testing.assert_array_equal(tree.values[:capacity], plain)
    assert tree.total == pytest.approx(plain.sum())
    assert tree.minimum == min(plain[plain > 0], default=np.inf)
    if tree.total:
        shares = np.array([0, 0.25, 0.5, 0.75, np.nextafter(1, 0), 1])
        found, values = tree.find(shares * tree.total)
        assert (plain[found] > 0).all()  # nothing that is zero, even at the very end
        np.testing.assert_array_equal(values, plain[found])
        before = np.concatenate([[0], np.cumsum(plain)])
        slack = 1e-9 * tree.total
        assert (before[found] <= shares * tree.total + slack).all()
        assert (shares * tree.total <= before[found + 1] + slack).all()


def test_sums_do_not_drift() -> None:
    tree, generator = SumTree(64), np.random.default_rng(0)
    for _ in range(2000):
        slots = generator.integers(0, 64, 8)
        tree.set(slots, 10.0 ** generator.integers(-8, 9, 8))
    tree.set(np.arange(64), np.full(64, 0.1))
    assert tree.total == pytest.approx(6.4, rel=1e-15)


def test_where_no_folder_can_be_written_it_is_compiled_each_time() -> None:
    code = (
        "import numpy as np; from services.common.replay.sum_tree import SumTree; "
        "tree = SumTree(4); tree.set(np.arange(4), np.ones(4)); print(tree.total)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"NUMBA_CACHE_DIR": "/proc/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "4.0\n"


def test_the_command_line_does_not_wait_for_numba() -> None:
    code = "import sys, services.cli, services.common.replay; print('numba' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
