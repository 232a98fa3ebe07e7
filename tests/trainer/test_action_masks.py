"""Masks as environments give them, in either form."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from services.trainer import environments
from services.trainer.action_masks import mask_of, masks_of
from services.trainer.config import EnvironmentConfig


def test_who_says_nothing_or_forbids_all_allows_all() -> None:
    assert masks_of({}, 2, 3).tolist() == [[True] * 3] * 2
    given = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0]], np.int8)
    infos = {"action_mask": given, "_action_mask": np.array([True, True, False])}
    assert masks_of(infos, 3, 3).tolist() == [[False, True, False], [True] * 3, [True] * 3]
    assert mask_of({"action_mask": given[0]}, 3).tolist() == [False, True, False]
    assert mask_of({}, 2).tolist() == [True, True]


def test_both_forms_look_the_same_once_made() -> None:
    found = []
    for name in ("ProbeMask-v0", "ProbeMaskDict-v0"):
        envs = environments.make(EnvironmentConfig(id=name), num_envs=4)
        assert isinstance(envs.single_observation_space, gym.spaces.Box)
        seen, infos = envs.reset(seed=0)
        steps = [(seen, masks_of(infos, 4, 2))]
        for _ in range(3):
            seen, *_, infos = envs.step(np.zeros(4, np.int64))
            steps.append((seen, masks_of(infos, 4, 2)))
        envs.close()
        found.append(steps)
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
    masks = np.concatenate([mask for _, mask in found[0]])
    assert not masks[:, 1].all()
    assert masks[:, 0].all()
