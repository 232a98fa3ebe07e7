"""Steps vectorised environments and makes transitions of what happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import VectorEnv

from services.common.replay.fragments import FragmentBuilder
from services.common.replay.schema import ReplaySchema, Rows
from services.trainer.action_masks import MASK, Masks, masks_of
from services.trainer.arrays import Array, Arrays, joined, like, packed, part, plain, unpacked


@dataclass(frozen=True)
class Choice:
    """Actions `(N, *action)` as the environment takes them, and the log-probabilities `(N,)` with
    which they were chosen."""

    actions: Array
    log_probabilities: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Episode:
    """An ended episode: undiscounted return and number of steps."""

    episode_return: float
    length: int


Act = Callable[[Array], Choice]


class Collector:
    """Steps N environments with a policy. Environments go on where the last call left them.

    Args:
        envs: in NEXT_STEP autoreset mode.
        schema: of the rows to make; with a field "action_mask", masks are recorded.
        seed: of the environments.
        first_episode: id of the first episode; ids count up from it.
        reward_limit: that rewards are clipped to, up and down, in what is made; None: not at all.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        schema: ReplaySchema,
        seed: int,
        first_episode: int = 0,
        reward_limit: float | None = None,
    ) -> None:
        self._envs, self._schema, self._limit = envs, schema, reward_limit
        count = envs.num_envs
        self._builder = FragmentBuilder(schema, count)
        self.observations, infos = envs.reset(seed=seed)
        self._actions = next((f.shape[0] for f in schema.extras if f.name == MASK), 0)
        self.masks = self._masks(infos)
        self._ended = np.zeros(count, dtype=bool)
        self._steps = np.zeros(count, dtype=np.int64)
        self._returns = np.zeros(count)
        self._episode_ids = first_episode + np.arange(count)
        self.next_episode = first_episode + count

    @property
    def held(self) -> int:
        """Steps taken since the last `take`."""
        return self._builder.steps

    def take(self) -> Rows:
        """The steps since the last time, as whole fragments."""
        return self._builder.take()

    def step(self, act: Act, policy_version: int = 0) -> tuple[int, list[Episode]]:
        """One step of each environment.

        Returns:
            how many steps were taken, at most N (an environment that is being reset takes
            none), and the episodes that ended.
        """
        choice = act(self.observations)
        following, rewards, terminated, truncated, infos = self._envs.step(choice.actions)
        masks = self._masks(infos)
        live = ~self._ended
        rows, reached = self._schema.empty(len(live)), self._schema.empty(len(live))
        self._schema.set_observation(rows, self.observations)
        self._schema.set_observation(reached, following)
        if masks is not None:
            rows[MASK], reached[MASK] = self.masks, masks
        rows["action"] = choice.actions
        limit = self._limit
        rows["reward"] = rewards if limit is None else np.clip(rewards, -limit, limit)
        rows["terminated"], rows["truncated"] = terminated, truncated
        rows["episode_id"], rows["step"] = self._episode_ids, self._steps
        rows["policy_version"] = policy_version
        rows["log_probability"] = choice.log_probabilities
        self._builder.add(rows, reached, live)
        self._returns[live] += rewards[live]
        self._steps[live] += 1
        ended = live & (terminated | truncated)
        episodes = [
            Episode(float(self._returns[i]), int(self._steps[i])) for i in np.flatnonzero(ended)
        ]
        self._begin_episodes(np.flatnonzero(ended))
        self._ended = ended
        self.observations, self.masks = following, masks
        return int(live.sum()), episodes

    def arrays(self) -> dict[str, Array]:
        """The episodes under way, once all steps were taken; for `put_back`."""
        before = {str(i): packed(self._schema, rows) for i, rows in enumerate(self._builder.before)}
        kept = {
            "observations": plain(self.observations),
            "next_episode": np.array(self.next_episode),
            "ended": self._ended,
            "steps": self._steps,
            "returns": self._returns,
            "episode_ids": self._episode_ids,
            **joined(before=before),
        }
        return kept if self.masks is None else kept | {"masks": self.masks}

    def put_back(self, arrays: Arrays) -> None:
        """Go on with what `arrays` gave, in environments that are where they were."""
        kept = {name: array.copy() for name, array in arrays.items()}
        self.observations = like(kept["observations"], self.observations)
        self.masks = kept.get("masks")
        self._ended, self._steps, self._returns = kept["ended"], kept["steps"], kept["returns"]
        self._episode_ids, self.next_episode = kept["episode_ids"], int(kept["next_episode"])
        before = part(kept, "before")
        self._builder.before = [unpacked(self._schema, before[str(i)]) for i in range(len(before))]

    def _masks(self, infos: Mapping[str, Any]) -> Masks | None:
        """(N, A) which actions are allowed now; None where nothing is forbidden ever."""
        if not self._actions:
            return None
        return masks_of(infos, self._envs.num_envs, self._actions)

    def _begin_episodes(self, which: npt.NDArray[np.intp]) -> None:
        self._returns[which] = 0
        self._steps[which] = 0
        self._episode_ids[which] = self.next_episode + np.arange(len(which))
        self.next_episode += len(which)
