"""Asks policies what to do, from asyncio."""

from __future__ import annotations

import numpy.typing as npt

from tutelage import _messages as messages
from tutelage._calls import ACT_S, NOBODY, AsyncConnection
from tutelage.client import ADMIN_S, CANARY, STABLE
from tutelage.credentials import Credentials
from tutelage.decisions import Decision, Decisions
from tutelage.streams import AsyncActStream, opening
from tutelage.v1 import policy_pb2, policy_pb2_grpc


class AsyncClient(AsyncConnection):
    """A connection to PolicyService for asyncio; belongs to the event loop it is made in.

    Every method raises a `tutelage.errors.TutelageError`.

    Args:
        address: host:port, or several with commas between; calls go to them in turn.
        credentials: where the service wants TLS or a token.
    """

    def __init__(
        self, address: str = "127.0.0.1:50051", *, credentials: Credentials = NOBODY
    ) -> None:
        super().__init__(address, credentials)
        self._stub = policy_pb2_grpc.PolicyServiceStub(self._channel)

    async def act(
        self,
        observation: messages.Observation,
        *,
        policy: str = "",
        version: int = 0,
        alias: str = STABLE,
        mask: npt.ArrayLike | None = None,
        sample: bool = False,
        epsilon: float | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        probabilities: bool = False,
        value: bool = False,
        track: bool = False,
        previous: Decision | str = "",
        session: str = "",
        episode_start: bool = False,
        carry_state: bool = False,
        state: Decision | bytes = b"",
        default: npt.ArrayLike | None = None,
        timeout_s: float = ACT_S,
    ) -> Decision:
        """Which action to take; arguments as in `Client.act`."""
        request = messages.act_request(
            observation,
            policy,
            version,
            alias,
            mask,
            sample,
            epsilon,
            seed,
            temperature,
            probabilities,
            value,
            track,
            previous,
            session,
            episode_start,
            carry_state,
            state,
            default,
        )
        return messages.decode_decision(await self._call(self._stub.Act, request, timeout_s))

    async def act_batch(
        self,
        observations: messages.Observation,
        *,
        policy: str = "",
        version: int = 0,
        alias: str = STABLE,
        masks: npt.ArrayLike | None = None,
        sample: bool = False,
        epsilon: float | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        probabilities: bool = False,
        values: bool = False,
        session: str = "",
        episode_starts: npt.ArrayLike | None = None,
        carry_state: bool = False,
        state: Decisions | bytes = b"",
        timeout_s: float = ACT_S,
    ) -> Decisions:
        """Which actions to take for (n, …) observations; arguments as in `Client.act_batch`."""
        request = messages.act_batch_request(
            observations,
            policy,
            version,
            alias,
            masks,
            sample,
            epsilon,
            seed,
            temperature,
            probabilities,
            values,
            session,
            episode_starts,
            carry_state,
            state,
        )
        return messages.decode_decisions(await self._call(self._stub.ActBatch, request, timeout_s))

    def stream(
        self,
        *,
        policy: str = "",
        version: int = 0,
        alias: str = STABLE,
        session: str = "",
        carry_state: bool = False,
    ) -> AsyncActStream:
        """Decisions that follow one another, over one call; see `Client.stream`."""
        first = opening(policy, version, alias, session)
        return AsyncActStream(self._stub.ActStream, self._metadata, first, carry_state)

    async def report(
        self,
        decision: Decision | str,
        reward: float,
        *,
        terminated: bool = False,
        truncated: bool = False,
        next_observation: messages.Observation | None = None,
        next_mask: npt.ArrayLike | None = None,
        timeout_s: float = ACT_S,
    ) -> bool:
        """Say what came of a tracked decision; arguments as in `Client.report`."""
        request = messages.report_request(
            decision, reward, terminated, truncated, next_observation, next_mask
        )
        return not (await self._call(self._stub.ReportOutcome, request, timeout_s)).duplicate

    async def policy(self, policy: str = "", *, timeout_s: float = ADMIN_S) -> policy_pb2.Policy:
        """A policy: its spec, versions, aliases, and what is being served."""
        request = policy_pb2.GetPolicyRequest(policy=policy)
        return (await self._call(self._stub.GetPolicy, request, timeout_s)).policy

    async def policies(self, *, timeout_s: float = ADMIN_S) -> list[policy_pb2.Policy]:
        """All policies by name."""
        request = policy_pb2.ListPoliciesRequest()
        return list((await self._call(self._stub.ListPolicies, request, timeout_s)).policies)

    async def set_alias(
        self,
        policy: str,
        alias: str,
        version: int,
        *,
        share: float | None = None,
        timeout_s: float = ADMIN_S,
    ) -> policy_pb2.SetAliasResponse:
        """Point an alias at a version; it answers from then on.

        Args:
            share: see `set_share`; None leaves it as it is.
        """
        request = messages.set_alias_request(policy, alias, version, share)
        return await self._call(self._stub.SetAlias, request, timeout_s)

    async def set_share(
        self, policy: str, share: float, *, alias: str = CANARY, timeout_s: float = ADMIN_S
    ) -> policy_pb2.SetAliasResponse:
        """As `Client.set_share`."""
        request = messages.set_share_request(policy, alias, share)
        return await self._call(self._stub.SetAlias, request, timeout_s)

    async def promote(
        self, policy: str, version: int, *, timeout_s: float = ADMIN_S
    ) -> policy_pb2.SetAliasResponse:
        """Make a version the stable one."""
        return await self.set_alias(policy, STABLE, version, timeout_s=timeout_s)

    async def rollback(
        self, policy: str, alias: str = STABLE, *, timeout_s: float = ADMIN_S
    ) -> policy_pb2.SetAliasResponse:
        """Point an alias back at the version it had before."""
        request = messages.rollback_request(policy, alias)
        return await self._call(self._stub.SetAlias, request, timeout_s)
