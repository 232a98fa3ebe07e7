"""Asks policies what to do, and moves their aliases; blocking. For asyncio, see `tutelage.aio`."""

from __future__ import annotations

import numpy.typing as npt

from tutelage import _messages as messages
from tutelage._calls import ACT_S, NOBODY, Connection
from tutelage.credentials import Credentials
from tutelage.decisions import Decision, Decisions
from tutelage.streams import ActStream, opening
from tutelage.v1 import policy_pb2, policy_pb2_grpc

STABLE, CANARY = "stable", "canary"
ADMIN_S = 30.0


class Client(Connection):
    """A connection to PolicyService. Thread-safe; make one and keep it.

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

    def act(
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
        """Which action to take.

        Args:
            observation: of the policy's shape; float32 and uint8 arrays are sent as bytes,
                any other numbers are converted to the policy's type by the service. For a
                policy that observes a Dict: its parts by name.
            policy: its name; "" where the service holds one policy.
            version: a version to pin; 0 follows the alias.
            mask: (actions,), true where allowed; None allows all.
            sample: draw from the distribution instead of taking the best.
            epsilon: probability of an even draw from the allowed actions in place of the best.
            seed: of the draw; None lets the service choose, and the decision tells.
            temperature: divides values or logits before softmax; None is 1.
            probabilities: whether the decision is to carry all probabilities.
            value: whether it is to say what the policy expects from here.
            track: whether its outcome will be reported; see `report`, and `Session`, which does
                all of it.
            previous: the tracked decision that led to this observation, or its decision_id; ""
                where none did, as at an episode's start.
            session: names who acts, so that all its calls are answered by one version, also where
                a canary answers a share of them. A recurrent policy's state is kept by it.
            episode_start: this is an episode's first observation: nothing is remembered.
            carry_state: have a recurrent policy's state in the decision, in place of in the
                service: then any replica can be asked next.
            state: the decision before, or its state; none at an episode's start.
            default: a safe action to be given, `degraded`, in place of an error that is not this
                request's fault. None leaves it to the service, which may have one.
            timeout_s: seconds to wait for the answer, retries included.
        """
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
        return messages.decode_decision(self._call(self._stub.Act, request, timeout_s))

    def act_batch(
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
        """Which actions to take for (n, …) observations; arguments as in `act`.

        Args:
            masks: (n, actions).
            seed: of the first row; the others' follow from it.
            episode_starts: (n,), of a recurrent policy, whose state must be carried.
            state: the decisions before, as many, or their state.
        """
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
        return messages.decode_decisions(self._call(self._stub.ActBatch, request, timeout_s))

    def stream(
        self,
        *,
        policy: str = "",
        version: int = 0,
        alias: str = STABLE,
        session: str = "",
        carry_state: bool = False,
    ) -> ActStream:
        """Decisions that follow one another, over one call that stays open.

            with client.stream(policy="cartpole") as stream:
                decision = stream.act(observation)

        It is opened with the first of them.

        Args:
            policy, version, alias: as in `act`, of all decisions.
            session: likewise; "" for one of its own.
            carry_state: have a recurrent policy's state travel to and fro, so that the stream goes
                on where a replica is lost.
        """
        first = opening(policy, version, alias, session)
        return ActStream(self._stub.ActStream, self._metadata, first, carry_state)

    def report(
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
        """Say what came of a tracked decision.

        Args:
            decision: from `act` with track, or its decision_id.
            reward: what the action earned until the observation reached.
            terminated: the episode ended there by its own rules.
            truncated: it was cut short there.
            next_observation: the observation reached. Needed where `truncated` alone is set;
                else it may be left to the decision that names this one as `previous`.
            next_mask: (actions,), true where allowed there; None allows all.

        Returns:
            Whether it counts: False where an outcome of this decision was reported before.
        """
        request = messages.report_request(
            decision, reward, terminated, truncated, next_observation, next_mask
        )
        return not self._call(self._stub.ReportOutcome, request, timeout_s).duplicate

    def policy(self, policy: str = "", *, timeout_s: float = ADMIN_S) -> policy_pb2.Policy:
        """A policy: its spec, versions, aliases, and what is being served."""
        request = policy_pb2.GetPolicyRequest(policy=policy)
        return self._call(self._stub.GetPolicy, request, timeout_s).policy

    def policies(self, *, timeout_s: float = ADMIN_S) -> list[policy_pb2.Policy]:
        """All policies by name."""
        request = policy_pb2.ListPoliciesRequest()
        return list(self._call(self._stub.ListPolicies, request, timeout_s).policies)

    def set_alias(
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
        return self._call(self._stub.SetAlias, request, timeout_s)

    def set_share(
        self, policy: str, share: float, *, alias: str = CANARY, timeout_s: float = ADMIN_S
    ) -> policy_pb2.SetAliasResponse:
        """Say which share of the calls that follow `stable` an alias has a part in.

        Args:
            share: in [0, 1]; `canary` answers so many, sessions staying with one version, and
                `shadow` is shown so many, and only compared.
        """
        request = messages.set_share_request(policy, alias, share)
        return self._call(self._stub.SetAlias, request, timeout_s)

    def promote(
        self, policy: str, version: int, *, timeout_s: float = ADMIN_S
    ) -> policy_pb2.SetAliasResponse:
        """Make a version the stable one."""
        return self.set_alias(policy, STABLE, version, timeout_s=timeout_s)

    def rollback(
        self, policy: str, alias: str = STABLE, *, timeout_s: float = ADMIN_S
    ) -> policy_pb2.SetAliasResponse:
        """Point an alias back at the version it had before."""
        request = messages.rollback_request(policy, alias)
        return self._call(self._stub.SetAlias, request, timeout_s)
