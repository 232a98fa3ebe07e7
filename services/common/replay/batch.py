"""What is sampled. Arrays are views of the rows that were copied out, which torch takes as is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.replay.ring import Index
from services.common.replay.samplers import Drawn
from services.common.replay.schema import CLOSING, Array, Field, ReplaySchema, Rows

Floats = npt.NDArray[np.float32]


class Transitions:
    """N transitions, each over one or more steps.

    Args:
        windows: (N, history + 2) copies of the rows about each first step, which is the last
            but one.
        reached: the same about each last step; `windows` itself where that is one step.
        reward: (N,) Σ γᵏ·rₖ over the steps; None: that of the first step.
    """

    def __init__(
        self,
        schema: ReplaySchema,
        windows: Rows,
        reached: Rows | None = None,
        reward: Floats | None = None,
    ) -> None:
        self._schema, self._windows = schema, pad(schema, windows)
        self._reached = windows if reached is None else pad(schema, reached)
        self._reward = reward
        self._shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def rows(self) -> Rows:
        """(N,) the first steps as they are stored."""
        return self._windows[:, -2]

    @property
    def observation(self) -> Any:
        """(N, *shape) acted in, nested as the schema's structure; a stack is an axis before it."""
        leaves = {field.name: field for field in self._schema.leaves}
        return self._schema.observation(lambda name: self._state(self._windows, leaves[name], 0))

    @property
    def next_observation(self) -> Any:
        """(N, *shape) after the last step, of the same episode."""
        leaves = {field.name: field for field in self._schema.leaves}
        return self._schema.observation(lambda name: self._state(self._reached, leaves[name], 1))

    @property
    def extras(self) -> dict[str, Array]:
        """What the state has beside the observation, by name: (N, *shape)."""
        return {f.name: self._state(self._windows, f, 0) for f in self._schema.extras}

    @property
    def next_extras(self) -> dict[str, Array]:
        """The same after the last step."""
        return {f.name: self._state(self._reached, f, 1) for f in self._schema.extras}

    @property
    def action(self) -> Array:
        """(N, *shape) of the first step."""
        return self._shaped(self._windows["action"][:, -2])

    @property
    def reward(self) -> Floats:
        """(N,) Σ γᵏ·rₖ over the steps taken."""
        return self._shaped(
            self._windows["reward"][:, -2] if self._reward is None else self._reward
        )

    @property
    def terminated(self) -> npt.NDArray[np.bool_]:
        """(N,) the state reached is terminal."""
        return self._shaped(self._reached["terminated"][:, -2])

    @property
    def truncated(self) -> npt.NDArray[np.bool_]:
        """(N,) the episode was cut off at the state reached."""
        return self._shaped(self._reached["truncated"][:, -2])

    @property
    def log_probability(self) -> Floats:
        """(N,) of the first step's action when it was chosen."""
        return self._shaped(self._windows["log_probability"][:, -2])

    @property
    def policy_version(self) -> npt.NDArray[np.int32]:
        """(N,) of what chose the first step's action."""
        return self._shaped(self._windows["policy_version"][:, -2])

    def _state(self, windows: Rows, field: Field, later: int) -> Array:
        column = windows[field.name]
        last = column.shape[1] - 2 + later
        if field.stack == 1:
            return self._shaped(column[:, last])
        return self._shaped(column[:, last - field.stack + 1 : last + 1])

    def _shaped(self, array: Array) -> Array:
        return array if self._shape is None else array.reshape(self._shape + array.shape[1:])


class Batch(Transitions):
    """B sampled transitions.

    Args:
        drawn: the draws, B together.
        discount: (B,) γ to the number of steps taken; 0 when the last of them terminated.
    """

    def __init__(
        self,
        schema: ReplaySchema,
        windows: Rows,
        reached: Rows | None,
        reward: Floats | None,
        drawn: Sequence[Drawn],
        discount: Floats,
    ) -> None:
        super().__init__(schema, windows, reached, reward)
        self._drawn, self.discount = drawn, discount

    @property
    def index(self) -> Index:
        """(B,) which rows of their shards these are, for `update_priorities`.

        Their numbers; once Redis lost rows, so that numbers were given out again, more than that.
        """
        index: Index = joined([drawn.index for drawn in self._drawn])
        return index

    @property
    def shard(self) -> Index:
        """(B,)"""
        counts = [len(drawn.numbers) for drawn in self._drawn]
        return np.repeat(np.array([drawn.shard for drawn in self._drawn], np.int64), counts)

    @property
    def weights(self) -> Floats:
        """(B,) importance weights, at most 1 (Schaul et al. 2016); 1 for uniform samples."""
        parts = [
            np.ones(len(drawn.numbers), np.float32) if drawn.weights is None else drawn.weights
            for drawn in self._drawn
        ]
        weights: Floats = joined(parts)
        return weights


class SequenceBatch(Batch):
    """B sampled stretches of L = burn_in + length steps.

    `index`, `shard` and `weights` are (B,) and of the stretches' first steps; all else is
    (B, L, …). Where the episode ends first, the last step is repeated.

    Args:
        mask: (B, L) False where the episode had ended.
        discount: (B · L,) γ; 0 when the step terminated.
        burn_in: leading steps meant to warm up a recurrent network, not to learn from.
    """

    def __init__(
        self,
        schema: ReplaySchema,
        windows: Rows,
        reward: Floats,
        drawn: Sequence[Drawn],
        discount: Floats,
        mask: npt.NDArray[np.bool_],
        burn_in: int,
    ) -> None:
        super().__init__(schema, windows, None, reward, drawn, discount.reshape(mask.shape))
        self._shape = mask.shape
        self.mask, self.burn_in = mask, burn_in

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def initial(self) -> dict[str, Array]:
        """The state's extras, such as a recurrent state, before the first step: (B, *shape)."""
        return {name: column[:, 0] for name, column in self.extras.items()}


def joined(parts: Sequence[Any]) -> Any:
    """Parts of a batch as one array."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def pad(schema: ReplaySchema, windows: Rows) -> Rows:
    """Put in place, within windows (N, history + 2), what stands before a fragment's first row.

    A fragment has before its first step all that its stacks reach back to, or its episode
    began there.
    """
    history = schema.history
    if not history or not len(windows):
        return windows
    foreign = windows["kind"][:, :history] == CLOSING
    if not foreign.any():
        return windows
    first = history - foreign[:, ::-1].argmax(axis=1)  # after the last closing row
    first[~foreign.any(axis=1)] = 0
    for field in schema.state:
        if field.stack > 1:
            _pad_field(windows[field.name], first, field)
    return windows


def _pad_field(column: Array, first: Index, field: Field) -> None:
    places = np.arange(column.shape[1])
    for i in np.flatnonzero(first).tolist():
        column[i, places < first[i]] = column[i, first[i]] if field.pad == "first" else 0
