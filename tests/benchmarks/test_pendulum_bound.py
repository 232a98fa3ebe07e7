"""The equations and the interpolation that Pendulum's bound stands on."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from pendulum_bound import SPEED, TORQUE, moved, value_at


def test_a_step_is_gymnasiums() -> None:
    environment = gymnasium.make("Pendulum-v1").unwrapped
    environment.reset(seed=3)
    generator = np.random.default_rng(0)
    for _ in range(200):
        angle, speed = environment.state
        torque = float(np.float32(generator.uniform(-TORQUE, TORQUE)))
        reward, next_angle, next_speed = moved.py_func(angle, speed, torque)
        _, its_reward, _, _, _ = environment.step(np.array([torque], np.float32))
        assert reward == pytest.approx(float(its_reward), abs=1e-5)
        assert (next_angle, next_speed) == pytest.approx(tuple(environment.state), abs=1e-5)


def test_values_are_interpolated_around_the_circle() -> None:
    # Four angles a quarter of a turn apart, three speeds from -8 to 8; a value is 10 · i + j.
    values = 10.0 * np.arange(4)[:, None] + np.arange(3)[None, :]
    at = value_at.py_func
    assert at(values, 0.0, -SPEED) == pytest.approx(0.0)
    assert at(values, np.pi / 2, 0.0) == pytest.approx(11.0)
    assert at(values, 3 * np.pi / 4, 4.0) == pytest.approx(16.5)
    assert at(values, np.pi, SPEED) == pytest.approx(22.0)
    # Halfway between the last angle and the first.
    assert at(values, 7 * np.pi / 4, 0.0) == pytest.approx(16.0)
    assert at(values, -np.pi / 4, 0.0) == pytest.approx(16.0)
