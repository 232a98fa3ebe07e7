"""Sampling from rings in this process: what a mirror and a replay in memory share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidConfig, ReplayDataLost
from services.common.replay.batch import Batch, Floats, SequenceBatch, joined
from services.common.replay.relabel import Labels, Relabeler
from services.common.replay.ring import NONE, Index, Ring
from services.common.replay.samplers import (
    UNIFORM,
    Drawn,
    Prioritized,
    Sampler,
    Uniform,
    UniformSampler,
)
from services.common.replay.schema import ReplaySchema, Rows

if TYPE_CHECKING:
    from services.common.replay.prioritized import PrioritizedSampler


@dataclass(frozen=True)
class Sampling:
    """How batches are made of stored one-step rows.

    n_step: most steps a transition looks ahead; fewer where the episode ends, or where it has
        gone no further yet: then the value of the state reached stands for the rest.
    relabel: rewards to learn from in place of the stored ones.
    """

    generator: np.random.Generator
    sampler: Uniform | Prioritized = UNIFORM
    n_step: int = 1
    discount: float = 0.99
    relabel: Relabeler | None = None

    def __post_init__(self) -> None:
        if self.n_step < 1 or not 0 <= self.discount <= 1:
            raise InvalidConfig(
                f"replay has n_step {self.n_step} and discount {self.discount}, expected at "
                "least 1 and within [0, 1]"
            )


@dataclass(frozen=True)
class _Part:
    """What one shard gave of a batch."""

    windows: Rows
    reached: Rows | None
    reward: Floats | None
    discount: Floats


class LocalReplay:
    """Samples of rings. Not for several threads."""

    def __init__(
        self, name: str, schema: ReplaySchema, rings: Sequence[Ring], sampling: Sampling
    ) -> None:
        self.name, self.schema = name, schema
        self._rings, self._sampling = rings, sampling
        self._prioritized: PrioritizedSampler | None = None
        if isinstance(sampling.sampler, Prioritized):
            from services.common.replay.prioritized import PrioritizedSampler  # numba is slow

            self._prioritized = PrioritizedSampler(rings, sampling.sampler)
        self._sampler: Sampler = self._prioritized or UniformSampler(rings)
        self._labels: list[Labels] | None = None
        if sampling.relabel is not None:
            self._labels = [Labels(sampling.relabel, ring) for ring in rings]
        self._sampled = [0] * len(rings)  # since the last report of them
        self._discounts = np.array([sampling.discount, 0], dtype=np.float32)

    @property
    def size(self) -> int:
        """Steps that can be sampled."""
        return sum([ring.size for ring in self._rings])

    @property
    def head(self) -> int:
        """Rows of any kind ever appended, as far as is known here."""
        return sum(ring.head for ring in self._rings)

    def sample(self, batch_size: int) -> Batch:
        """Transitions drawn with replacement.

        Raises:
            ReplayDataLost: when there is no row.
        """
        drawn = self._draw(batch_size)
        parts = [self._part(one) for one in drawn]
        if len(parts) == 1:
            part = parts[0]
            return Batch(self.schema, part.windows, part.reached, part.reward, drawn, part.discount)
        rewards = [p.reward for p in parts if p.reward is not None]
        reached = [p.reached for p in parts if p.reached is not None]
        return Batch(
            self.schema,
            joined([p.windows for p in parts]),
            joined(reached) if reached else None,
            joined(rewards) if rewards else None,
            drawn,
            joined([p.discount for p in parts]),
        )

    def sample_sequences(self, batch_size: int, length: int, burn_in: int = 0) -> SequenceBatch:
        """Stretches of `burn_in + length` steps of one episode each, from drawn first steps on.

        Raises:
            ReplayDataLost: when there is no row.
        """
        drawn = self._draw(batch_size)
        total = burn_in + length
        followed = [self._follow(self._slots(d), d.shard, total) for d in drawn]
        flat = [(d.shard, slots.ravel()) for d, (slots, _) in zip(drawn, followed, strict=True)]
        windows = joined([self._rings[shard].windows(slots) for shard, slots in flat])
        mask = joined([mask for _, mask in followed])
        rewards = joined([self._rewards(shard, slots) for shard, slots in flat])
        discount = self._after(windows)
        return SequenceBatch(self.schema, windows, rewards, drawn, discount, mask, burn_in)

    def update_priorities(
        self,
        index: Index,
        priorities: npt.NDArray[np.floating],
        shard: Index | None = None,
    ) -> None:
        """Set the priorities of sampled steps, such as their TD errors; the sign is of no matter.

        Steps that were overwritten meanwhile are left out. Uniform samplers take no notice.

        Args:
            index, shard: of the batch; `shard` may be left out when there is one.

        Raises:
            InvalidInput: when a priority is not finite.
        """
        if self._prioritized is None:
            return
        if shard is None or len(self._rings) == 1:
            self._prioritized.update(0, index, priorities)
            return
        for one in np.unique(shard).tolist():
            own = shard == one
            self._prioritized.update(one, index[own], priorities[own])

    @property
    def beta(self) -> float:
        """The importance-sampling exponent β, to be raised as training goes on; uniform: 0."""
        return self._prioritized.beta if self._prioritized else 0.0

    @beta.setter
    def beta(self, value: float) -> None:
        if self._prioritized:
            self._prioritized.beta = value

    def _write(self, shard: int, first: int, rows: Rows) -> None:
        change = self._rings[shard].write(first, rows)
        self._sampler.changed(shard, change)
        if self._labels is not None:
            self._labels[shard].changed(change)

    def _truncate(self, shard: int, head: int) -> None:
        self._rings[shard].truncate(head)
        self._sampler.started_over(shard)
        if self._labels is not None:
            self._labels[shard].started_over()

    def _draw(self, count: int) -> list[Drawn]:
        if not self.size:
            raise ReplayDataLost(f"replay {self.name} holds no rows to sample")
        drawn = self._sampler.draw(count, self._sampling.generator)
        for one in drawn:
            self._sampled[one.shard] += len(one.numbers)
        return drawn

    def _slots(self, drawn: Drawn) -> Index:
        return drawn.numbers % self._rings[drawn.shard].capacity

    def _part(self, drawn: Drawn) -> _Part:
        slots, ring = self._slots(drawn), self._rings[drawn.shard]
        windows = ring.windows(slots)
        if self._sampling.n_step == 1:
            reward = None if self._labels is None else self._rewards(drawn.shard, slots)
            return _Part(windows, None, reward, self._after(windows))
        last, reward, factor = self._look_ahead(slots, drawn.shard)
        reached = ring.windows(last)
        return _Part(windows, reached, reward, factor * self._after(reached))

    def _look_ahead(self, slots: Index, shard: int) -> tuple[Index, Floats, Floats]:
        """Slots of the last steps, Σ γᵏ·rₖ, and γ to the number of steps before the last."""
        next_slot, gamma = self._rings[shard].next_slot, np.float32(self._sampling.discount)
        last, reward = slots, self._rewards(shard, slots)
        factor = np.ones(len(slots), dtype=np.float32)
        for _ in range(self._sampling.n_step - 1):
            following = next_slot[last]
            going = following != NONE  # an episode's last row has no successor
            if not going.any():
                break
            last = np.where(going, following, last)
            factor = np.where(going, gamma * factor, factor)
            reward = reward + np.where(going, factor * self._rewards(shard, last), np.float32(0))
        return last, reward, factor

    def _follow(self, slots: Index, shard: int, length: int) -> tuple[Index, npt.NDArray[np.bool_]]:
        """Slots (n, length) of the steps from these on, and which are still of the episode."""
        next_slot = self._rings[shard].next_slot
        steps = np.empty((len(slots), length), dtype=np.int64)
        mask = np.ones((len(slots), length), dtype=bool)
        steps[:, 0] = slots
        for t in range(1, length):
            following = next_slot[steps[:, t - 1]]
            mask[:, t] = mask[:, t - 1] & (following != NONE)
            steps[:, t] = np.where(mask[:, t], following, steps[:, t - 1])
        return steps, mask

    def _rewards(self, shard: int, slots: Index) -> Floats:
        if self._labels is not None:
            return self._labels[shard].of(slots)
        rewards: Floats = self._rings[shard].rows["reward"][slots]
        return rewards

    def _after(self, windows: Rows) -> Floats:
        """γ, or 0 where the windows' step terminated."""
        terminated = windows["terminated"][:, -2].view(np.uint8)
        discount: Floats = self._discounts[terminated]
        return discount
