"""Between numpy and the wire's messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tutelage.decisions import Decision, Decisions
from tutelage.errors import InvalidInput
from tutelage.v1 import array_pb2, policy_pb2

# An array, or a Dict's parts by name.
Observation: TypeAlias = "npt.ArrayLike | Mapping[str, npt.ArrayLike]"

# Sent as they are. Other numbers are sent as numbers, which the service converts to what the
# policy takes: a list or float64 array says nothing of the type that is meant.
_RAW = {
    np.dtype("<f4"): array_pb2.DTYPE_FLOAT32,
    np.dtype("u1"): array_pb2.DTYPE_UINT8,
}
_DTYPES = {
    array_pb2.DTYPE_FLOAT32: np.float32,
    array_pb2.DTYPE_FLOAT64: np.float64,
    array_pb2.DTYPE_INT64: np.int64,
}


def encode_observation(observation: npt.ArrayLike) -> array_pb2.Array:
    """An observation or a batch of them.

    Raises:
        InvalidInput: when it is not an array of numbers, or is empty.
    """
    array = _numbers(observation, "observation")
    if array.size == 0:
        raise InvalidInput(f"the observation is empty: its shape is {list(array.shape)}")
    dtype = _RAW.get(array.dtype)
    if dtype is None:
        return array_pb2.Array(values=array.ravel().tolist(), shape=array.shape)
    return array_pb2.Array(raw=array.tobytes(), dtype=dtype, shape=array.shape)


def encode_parts(observation: Observation) -> dict[str, array_pb2.Array]:
    """The parts of a Dict, or of a batch of them; none of anything else.

    Raises:
        InvalidInput: naming the part that is no array of numbers.
    """
    if not isinstance(observation, Mapping):
        return {}
    parts = {}
    for key, part in observation.items():
        try:
            parts[key] = encode_observation(part)
        except InvalidInput as error:
            raise InvalidInput(f"part {key!r}: {error}") from None
    return parts


def _encode_array(observation: Observation) -> array_pb2.Array | None:
    return None if isinstance(observation, Mapping) else encode_observation(observation)


def encode_mask(mask: npt.ArrayLike | None) -> Sequence[bool]:
    """Flags of a mask or of a batch of them; none for None.

    Raises:
        InvalidInput: when it is not an array of truth values.
    """
    if mask is None:
        return ()
    flags: list[bool] = _numbers(mask, "mask").astype(np.bool_).ravel().tolist()
    return flags


def encode_action(action: npt.ArrayLike) -> policy_pb2.Action:
    """An action: a Discrete one's number, or the elements of another.

    Raises:
        InvalidInput: when it is none of these.
    """
    array = _numbers(action, "default action")
    if array.ndim == 0 and array.dtype.kind in "iu":
        return policy_pb2.Action(discrete=int(array))
    numbers = array_pb2.Array(values=array.ravel().tolist(), shape=array.shape)
    return policy_pb2.Action(elements=numbers)


def act_request(
    observation: Observation,
    policy: str,
    version: int,
    alias: str,
    mask: npt.ArrayLike | None,
    sample: bool,
    epsilon: float | None,
    seed: int | None,
    temperature: float | None,
    probabilities: bool,
    value: bool,
    track: bool,
    previous: Decision | str,
    session: str,
    episode_start: bool,
    carry_state: bool,
    state: Decision | bytes,
    default: npt.ArrayLike | None = None,
) -> policy_pb2.ActRequest:
    """The request of one decision."""
    with refusing_misfits():
        return policy_pb2.ActRequest(
            policy=policy,
            version=version,
            alias=alias,
            observation=_encode_array(observation),
            observation_parts=encode_parts(observation),
            action_mask=encode_mask(mask),
            selection=_selection(sample, epsilon),
            epsilon=epsilon,
            seed=seed,
            temperature=temperature,
            include_probabilities=probabilities,
            include_value=value,
            track=track,
            previous_decision_id=_id_of(previous),
            session=session,
            episode_start=episode_start,
            carry_state=carry_state,
            recurrent_state=_state_of(state),
            default_action=None if default is None else encode_action(default),
        )


def act_batch_request(
    observations: Observation,
    policy: str,
    version: int,
    alias: str,
    masks: npt.ArrayLike | None,
    sample: bool,
    epsilon: float | None,
    seed: int | None,
    temperature: float | None,
    probabilities: bool,
    values: bool,
    session: str,
    episode_starts: npt.ArrayLike | None,
    carry_state: bool,
    state: Decisions | bytes,
) -> policy_pb2.ActBatchRequest:
    """The request of many decisions."""
    with refusing_misfits():
        return policy_pb2.ActBatchRequest(
            policy=policy,
            version=version,
            alias=alias,
            observations=_encode_array(observations),
            observation_parts=encode_parts(observations),
            action_masks=encode_mask(masks),
            selection=_selection(sample, epsilon),
            epsilon=epsilon,
            seed=seed,
            temperature=temperature,
            include_probabilities=probabilities,
            include_values=values,
            session=session,
            episode_starts=encode_mask(episode_starts),
            carry_state=carry_state,
            recurrent_state=_state_of(state),
        )


def report_request(
    decision: Decision | str,
    reward: float,
    terminated: bool,
    truncated: bool,
    next_observation: Observation | None,
    next_mask: npt.ArrayLike | None,
) -> policy_pb2.ReportOutcomeRequest:
    """The request that says what came of a decision.

    Raises:
        InvalidInput: when the decision was not tracked, or what it led to is no observation.
    """
    decision_id = _id_of(decision)
    if not decision_id:
        raise InvalidInput(
            "the decision was not tracked, so that no outcome of it can be reported: ask for it "
            "with track=True; where that was done, the service's Redis did not answer"
        )
    array, parts = None, {}
    if next_observation is not None:
        array, parts = _encode_array(next_observation), encode_parts(next_observation)
    with refusing_misfits():
        return policy_pb2.ReportOutcomeRequest(
            decision_id=decision_id,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            next_observation=array,
            next_observation_parts=parts,
            next_action_mask=encode_mask(next_mask),
        )


def decode_decision(response: policy_pb2.ActResponse) -> Decision:
    """One decision."""
    action = response.action
    return Decision(
        action=_array(action.elements) if action.HasField("elements") else action.discrete,
        version=response.version,
        digest=response.digest,
        log_probability=response.log_probability,
        seed=response.seed,
        probabilities=np.array(response.probabilities) if response.probabilities else None,
        parameters=np.array(response.parameters) if response.parameters else None,
        value=response.value if response.HasField("value") else None,
        decision_id=response.decision_id,
        state=response.recurrent_state,
        state_reset=response.state_reset,
        degraded=response.degraded,
    )


def decode_decisions(response: policy_pb2.ActBatchResponse) -> Decisions:
    """Many decisions."""
    vectors = response.HasField("elements")
    actions = _array(response.elements) if vectors else np.array(response.actions, np.int64)
    rows = (len(actions), -1)
    chances, parameters = np.array(response.probabilities), np.array(response.parameters)
    return Decisions(
        actions=actions,
        version=response.version,
        digest=response.digest,
        log_probabilities=np.array(response.log_probabilities),
        seeds=np.array(response.seeds or [0] * len(actions), dtype=np.uint64),
        probabilities=chances.reshape(rows) if chances.size else None,
        parameters=parameters.reshape(rows) if parameters.size else None,
        values=np.array(response.values) if response.values else None,
        state=response.recurrent_state,
        state_reset=response.state_reset,
    )


def _array(message: array_pb2.Array) -> npt.NDArray[np.generic]:
    return np.array(message.values, dtype=_DTYPES[message.dtype]).reshape(message.shape)


def set_alias_request(
    policy: str, alias: str, version: int, share: float | None
) -> policy_pb2.SetAliasRequest:
    """The request that points an alias at a version, and gives it a share if it is given one."""
    with refusing_misfits():
        return policy_pb2.SetAliasRequest(policy=policy, alias=alias, version=version, share=share)


def set_share_request(policy: str, alias: str, share: float) -> policy_pb2.SetAliasRequest:
    """The request that says which share of the calls an alias has a part in."""
    with refusing_misfits():
        return policy_pb2.SetAliasRequest(policy=policy, alias=alias, share=share)


def rollback_request(policy: str, alias: str) -> policy_pb2.SetAliasRequest:
    """The request that points an alias back."""
    return policy_pb2.SetAliasRequest(policy=policy, alias=alias, previous=True)


@contextmanager
def refusing_misfits() -> Iterator[None]:
    """Say InvalidInput for what protobuf refuses, such as a negative seed."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"this cannot be sent: {error}") from error


def _numbers(given: npt.ArrayLike, what: str) -> npt.NDArray[np.generic]:
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise InvalidInput(f"the {what} is not an array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise InvalidInput(f"the {what} is of {array.dtype}, expected numbers")
    return array


def _id_of(decision: Decision | str) -> str:
    return decision if isinstance(decision, str) else decision.decision_id


def _state_of(state: Decision | Decisions | bytes) -> bytes:
    return state if isinstance(state, bytes) else state.state


def _selection(sample: bool, epsilon: float | None) -> policy_pb2.ActionSelection.ValueType:
    if epsilon is not None:
        if sample:
            raise InvalidInput("sample and epsilon are two ways to choose; give one of them")
        return policy_pb2.ACTION_SELECTION_EPSILON_GREEDY
    return policy_pb2.ACTION_SELECTION_SAMPLE if sample else policy_pb2.ACTION_SELECTION_GREEDY
