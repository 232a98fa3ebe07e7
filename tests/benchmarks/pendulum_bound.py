"""How much return there is to be had of Pendulum-v1, on the episodes that `make learn` judges by.

    python tests/benchmarks/pendulum_bound.py [--grid 401]

Dynamic programming over all 200 steps of an episode: values on a grid of angles and speeds,
between which they are interpolated, by Gymnasium's own equations. For each seed of a row: what
acting by these values returned from the judged episodes' first states (which can be had), and
what the values say of these (which is about the most). A few minutes and 0.5 GB.
"""

from __future__ import annotations

import argparse

import gymnasium
import numba
import numpy as np
import numpy.typing as npt
from learn_run import FRESH, JUDGED_EPISODES
from learn_statistics import interquartile_mean

Floats = npt.NDArray[np.float64]
STEPS = 200
SPEED, TORQUE, STEP_S = 8.0, 2.0, 0.05


@numba.njit
def value_at(values: Floats, angle: float, speed: float) -> float:
    """Interpolated between the four points around; the first axis goes round."""
    angles, speeds = values.shape
    x, y = (angle / (2 * np.pi)) % 1.0 * angles, (speed + SPEED) / (2 * SPEED) * (speeds - 1)
    i, j = int(x), min(int(y), speeds - 2)
    f, g = x - i, y - j
    i, k = i % angles, (i + 1) % angles
    near = values[i, j] * (1 - g) + values[i, j + 1] * g
    far = values[k, j] * (1 - g) + values[k, j + 1] * g
    return near * (1 - f) + far * f


@numba.njit
def moved(angle: float, speed: float, torque: float) -> tuple[float, float, float]:
    """Reward, angle and speed of a step, as Gymnasium's PendulumEnv has it."""
    upright = (angle + np.pi) % (2 * np.pi) - np.pi
    reward = -(upright**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed += (15.0 * np.sin(angle) + 3.0 * torque) * STEP_S
    speed = min(SPEED, max(-SPEED, speed))
    return reward, angle + speed * STEP_S, speed


@numba.njit
def best(values: Floats, angle: float, speed: float, torques: Floats) -> tuple[float, float]:
    """The highest value of a torque, given those of the states after it; and that torque."""
    highest, chosen = -np.inf, 0.0
    for torque in torques:
        reward, next_angle, next_speed = moved(angle, speed, torque)
        value = reward + value_at(values, next_angle, next_speed)
        if value > highest:
            highest, chosen = value, torque
    return highest, chosen


@numba.njit
def a_step_before(values: Floats, torques: Floats) -> Floats:
    """What each point of the grid is worth with one step more to go."""
    angles, speeds = values.shape
    before = np.empty_like(values)
    for i in range(angles):
        for j in range(speeds):
            speed = -SPEED + 2 * SPEED * j / (speeds - 1)
            before[i, j], _ = best(values, i * 2 * np.pi / angles, speed, torques)
    return before


@numba.njit
def played(values: Floats, angle: float, speed: float, torques: Floats) -> float:
    """The return of an episode that is acted in by values (STEPS, angles, speeds) of the steps
    left after each."""
    total = 0.0
    for step in range(STEPS):
        _, torque = best(values[STEPS - 1 - step], angle, speed, torques)
        reward, angle, speed = moved(angle, speed, torque)
        total += reward
    return total


def first_states(seed: int) -> list[tuple[float, float]]:
    """Angle and speed that the judged episodes of a row's seed begin in."""
    environment = gymnasium.make("Pendulum-v1").unwrapped
    states = []
    for episode in range(JUDGED_EPISODES):
        environment.reset(seed=FRESH + JUDGED_EPISODES * seed + episode)
        states.append(tuple(environment.state))
    return states


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--grid", type=int, default=401, help="angles, and speeds")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    coarse, fine = np.linspace(-TORQUE, TORQUE, 31), np.linspace(-TORQUE, TORQUE, 201)
    values = np.zeros((STEPS + 1, arguments.grid, arguments.grid))
    for step in range(STEPS):
        values[step + 1] = a_step_before(values[step], coarse)
    returned, expected = [], []
    for seed in range(arguments.seeds):
        states = first_states(seed)
        returned.append(np.mean([played(values, *state, fine) for state in states]))
        expected.append(np.mean([value_at(values[STEPS], *state) for state in states]))
        print(f"seed {seed}: returned {returned[-1]:.1f}, expected {expected[-1]:.1f}", flush=True)
    print(
        f"interquartile means: returned {interquartile_mean(returned):.1f}, "
        f"expected {interquartile_mean(expected):.1f}"
    )


if __name__ == "__main__":
    main()
