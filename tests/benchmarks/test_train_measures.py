"""What `make bench-train` makes of what it measures, by hand."""

from __future__ import annotations

import pytest
from train_clock import Clock
from train_products import Passes, multiplications, shapes


def test_products_of_a_forward_pass_are_one_a_layer():
    assert list(shapes(((64, (4, 256, 2), Passes(forward=1)),))) == [(64, 4, 256), (64, 256, 2)]


def test_backward_passes_give_gradients_of_weights_and_of_all_inputs_but_the_first():
    products = ((64, (4, 256, 2), Passes(backward=1)),)
    weights, inputs = [(4, 64, 256), (256, 64, 2)], [(64, 2, 256)]
    assert list(shapes(products)) == weights + inputs


def test_a_gradient_to_the_inputs_passes_the_first_layer_and_leaves_weights_out():
    products = ((8, (3, 5, 1), Passes(to_inputs=1)),)
    assert list(shapes(products)) == [(8, 5, 3), (8, 1, 5)]
    assert multiplications(list(shapes(products))) == 8 * 5 * 3 + 8 * 1 * 5


def test_time_counts_for_the_innermost_part_alone():
    # The clock is read as it is made, and at each call and return.
    moments = iter([0.0, 1.0, 3.0, 7.0, 8.0])
    clock = Clock(lambda: next(moments))
    draw = clock.timed("replay", lambda: None)
    clock.timed("update", draw)()
    assert clock.seconds == {"rest": 1.0, "update": 3.0, "replay": 4.0}


def test_shares_leave_the_rest_to_what_no_part_took():
    clock = Clock(lambda: 0.0)
    clock.seconds.update({"update": 6.0, "environment": 1.0, "rest": 9.0})
    shares = clock.shares(10.0)
    assert shares["update"] == pytest.approx(0.6)
    assert shares["rest"] == pytest.approx(0.3)
