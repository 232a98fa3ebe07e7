"""Decisions of one version as the wire's replies."""

from __future__ import annotations

import struct

import numpy as np

from services.common.action_space import Discrete
from services.common.registry import PolicyManifest
from services.common.wire import encode_elements
from services.inference.batching import Question
from services.inference.distribution import Decisions
from tutelage.v1 import policy_pb2 as pb

# Written by hand, for a message of one number costs ten times as much.
_LOG_PROBABILITY = struct.Struct("<Bd")
_LOG_PROBABILITY_TAG = pb.ActResponse.DESCRIPTOR.fields_by_name["log_probability"].number << 3 | 1


class Encoder:
    """Encodes replies of one version; what is the same in all of them is serialized once.

    A serialized message followed by another is the two merged, so that part is appended.
    """

    def __init__(self, manifest: PolicyManifest) -> None:
        version, digest = manifest.version, manifest.sha256
        actions = range(manifest.spec.actions if isinstance(manifest.spec.action, Discrete) else 0)
        self._discrete = [
            pb.ActResponse(action=pb.Action(discrete=i)).SerializeToString() for i in actions
        ]
        self._one = pb.ActResponse(version=version, digest=digest).SerializeToString()
        self._many = pb.ActBatchResponse(version=version, digest=digest).SerializeToString()

    def one(self, question: Question, decisions: Decisions, row: int) -> bytes:
        """The ActResponse to a question of one row."""
        said = _LOG_PROBABILITY.pack(_LOG_PROBABILITY_TAG, decisions.log_probabilities[row])
        said += self._asked_for(question, decisions, row)
        if isinstance(decisions.actions, list):
            return self._discrete[decisions.actions[row]] + said + self._one
        elements = encode_elements(decisions.actions[row])
        chosen: bytes = pb.ActResponse(action=pb.Action(elements=elements)).SerializeToString()
        return chosen + said + self._one

    @staticmethod
    def _asked_for(question: Question, decisions: Decisions, row: int) -> bytes:
        if question.seeds is None and not (question.with_probabilities or question.with_value):
            return b""
        response = pb.ActResponse()
        if question.seeds is not None:
            response.seed = int(question.seeds[0])
        if question.with_probabilities:
            response.probabilities.extend(np.exp(decisions.table[row]).tolist())
            response.parameters.extend(decisions.parameters[row].tolist())
        if question.with_value:
            (response.value,) = values_of(question, decisions, row)
        content: bytes = response.SerializeToString()
        return content

    def many(self, question: Question, decisions: Decisions, start: int) -> bytes:
        """The ActBatchResponse to a question of many rows."""
        rows = slice(start, start + question.rows)
        actions = decisions.actions[rows]
        response = pb.ActBatchResponse(
            actions=actions if isinstance(actions, list) else [],
            elements=None if isinstance(actions, list) else encode_elements(actions),
            log_probabilities=decisions.log_probabilities[rows],
            seeds=[] if question.seeds is None else question.seeds.tolist(),
        )
        if question.with_probabilities:
            response.probabilities.extend(np.exp(decisions.table[rows]).ravel().tolist())
            response.parameters.extend(decisions.parameters[rows].ravel().tolist())
        if question.with_value:
            response.values.extend(values_of(question, decisions, start))
        content: bytes = response.SerializeToString() + self._many
        return content


def values_of(question: Question, decisions: Decisions, start: int) -> list[float]:
    """Of a question's rows what the critic says, else the greatest action values allowed."""
    if question.critic is not None:
        if question.values is None:
            question.values = question.critic(question.observations, question.masks).tolist()
        return question.values
    values = decisions.parameters[start : start + question.rows]
    if question.masks is not None:
        values = np.where(question.masks, values, -np.inf)
    greatest: list[float] = values.max(axis=1).tolist()
    return greatest
