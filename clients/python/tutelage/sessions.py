"""One who acts, decision after decision, and says what came of each."""

from __future__ import annotations

import uuid

import numpy.typing as npt

from tutelage._calls import ACT_S
from tutelage._messages import Observation
from tutelage.aio import AsyncClient
from tutelage.client import STABLE, Client
from tutelage.decisions import Decision
from tutelage.errors import InvalidInput


class _Course:
    """Where a session is: its last decision, and whether that leads to the next one."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self.previous, self.starts, self.state = "", True, b""
        self._last: Decision | None = None

    def decided(self, decision: Decision) -> Decision:
        """The next decision was made."""
        self._last, self.previous = decision, decision.decision_id
        self.starts, self.state = False, decision.state
        return decision

    def end(self) -> None:
        """An episode is over."""
        self.previous, self.starts = "", True

    def take(self, ended: bool) -> Decision:
        """The decision that an outcome is of, once."""
        decision, self._last = self._last, None
        if decision is None:
            raise InvalidInput("there is no decision whose outcome is not reported; act first")
        if ended:
            self.end()
        return decision


class Session:
    """Tracked decisions that follow one another, as of a robot or a game. For one thread.

        observation, _ = env.reset()
        session = Session(client, policy="cartpole")
        while going:
            decision = session.act(observation, epsilon=0.1)
            observation, reward, terminated, truncated, _ = env.step(decision.action)
            session.report(observation, reward, terminated, truncated)

    Args:
        client: that asks and reports; several sessions may share one.
        policy, version, alias: as in `Client.act`, of all decisions.
        carry_state: have a recurrent policy's state travel to and fro, in place of having the
            service keep it.
    """

    def __init__(
        self,
        client: Client,
        *,
        policy: str = "",
        version: int = 0,
        alias: str = STABLE,
        carry_state: bool = False,
    ) -> None:
        self._carry_state = carry_state
        self._client, self._of, self._course = client, (policy, version, alias), _Course()

    def reset(self) -> None:
        """The next observation is the first of an episode, though no end was reported."""
        self._course.end()

    def act(
        self,
        observation: Observation,
        *,
        mask: npt.ArrayLike | None = None,
        sample: bool = False,
        epsilon: float | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        timeout_s: float = ACT_S,
    ) -> Decision:
        """Which action to take; arguments as in `Client.act`.

        The decision's `decision_id` is "" where the service could not keep it, for want of Redis;
        then what came of it is reported to nobody.
        """
        policy, version, alias = self._of
        decision = self._client.act(
            observation,
            policy=policy,
            version=version,
            alias=alias,
            mask=mask,
            sample=sample,
            epsilon=epsilon,
            seed=seed,
            temperature=temperature,
            track=True,
            previous=self._course.previous,
            session=self._course.name,
            episode_start=self._course.starts,
            carry_state=self._carry_state,
            state=self._course.state,
            timeout_s=timeout_s,
        )
        return self._course.decided(decision)

    def report(
        self,
        observation: Observation,
        reward: float,
        terminated: bool = False,
        truncated: bool = False,
        *,
        mask: npt.ArrayLike | None = None,
        timeout_s: float = ACT_S,
    ) -> bool:
        """Say what came of the last decision, in the order in which `env.step` does.

        Args:
            observation: the one reached; it travels only where an episode ends, for the next
                decision has it otherwise.
            mask: (actions,), true where allowed there; None allows all.

        Returns:
            Whether it counts: False where the decision was not tracked, or reported before.
        """
        ended = terminated or truncated
        decision = self._course.take(ended)
        if not decision.decision_id:
            return False
        return self._client.report(
            decision,
            reward,
            terminated=terminated,
            truncated=truncated,
            next_observation=observation if ended else None,
            next_mask=mask if ended else None,
            timeout_s=timeout_s,
        )


class AsyncSession:
    """As `Session`, for asyncio; for one task."""

    def __init__(
        self,
        client: AsyncClient,
        *,
        policy: str = "",
        version: int = 0,
        alias: str = STABLE,
        carry_state: bool = False,
    ) -> None:
        self._carry_state = carry_state
        self._client, self._of, self._course = client, (policy, version, alias), _Course()

    def reset(self) -> None:
        """As `Session.reset`."""
        self._course.end()

    async def act(
        self,
        observation: Observation,
        *,
        mask: npt.ArrayLike | None = None,
        sample: bool = False,
        epsilon: float | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        timeout_s: float = ACT_S,
    ) -> Decision:
        """As `Session.act`."""
        policy, version, alias = self._of
        decision = await self._client.act(
            observation,
            policy=policy,
            version=version,
            alias=alias,
            mask=mask,
            sample=sample,
            epsilon=epsilon,
            seed=seed,
            temperature=temperature,
            track=True,
            previous=self._course.previous,
            session=self._course.name,
            episode_start=self._course.starts,
            carry_state=self._carry_state,
            state=self._course.state,
            timeout_s=timeout_s,
        )
        return self._course.decided(decision)

    async def report(
        self,
        observation: Observation,
        reward: float,
        terminated: bool = False,
        truncated: bool = False,
        *,
        mask: npt.ArrayLike | None = None,
        timeout_s: float = ACT_S,
    ) -> bool:
        """As `Session.report`."""
        ended = terminated or truncated
        decision = self._course.take(ended)
        if not decision.decision_id:
            return False
        return await self._client.report(
            decision,
            reward,
            terminated=terminated,
            truncated=truncated,
            next_observation=observation if ended else None,
            next_mask=mask if ended else None,
            timeout_s=timeout_s,
        )
