"""Decisions as rows of Parquet files: what was seen, how it was asked, and what was done.

    time             when the batch was decided, to the µs
    policy, version, digest     that decided; version 0 where `degraded`
    alias, session   by which it was asked for; an alias is missing where a version was named
    decision_id      of a tracked decision, even if Redis did not take it; else missing
    number           the decision's own, by which it was sampled: see `is_sampled`
    sampling_rate    at which decisions were logged
    observation, or observation.<part>
    recurrent_state  before the decision, part after part; only where the policy has one, and
                     missing where `degraded`
    action_mask      missing where all was allowed; there are none for actions in a Box
    selection        greedy, sample or epsilon_greedy; missing where `degraded`
    seed             of an action that was drawn; else missing
    temperature
    epsilon          of ε-greedy decisions; else missing
    action
    log_probability  as in the reply
    parameters, value    where they were asked for; else missing
    degraded         the safe default action, which no model chose; then the log-probability is
                     missing

Arrays are lists of fixed size in C order, of the element types of the policy's spec.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from services.common.parquet import column, column_type
from services.common.spec import PolicySpec
from services.inference.batching import Asked, Question, joined_masks
from services.inference.distribution import Masks, Seeds, uniforms
from services.inference.runner import Observations, States

METADATA = b"tutelage.decisions"
FORMAT = 1
ROW_BYTES = 400  # that a row takes beside its observation, about
GREEDY, SAMPLE, EPSILON_GREEDY = "greedy", "sample", "epsilon_greedy"
Indices = npt.NDArray[np.intp] | slice


@dataclass(frozen=True, slots=True)
class _Sparse:
    """Values (n, …) of which some are missing (n,)."""

    values: npt.NDArray[Any]
    missing: Masks


Cells = Sequence[Any] | npt.NDArray[Any] | _Sparse


def is_sampled(numbers: Seeds, rate: float) -> Masks:
    """Which of the decisions (n,) of these numbers are logged at a rate.

    What is logged at a lower rate is a part of what is logged at a higher one.
    """
    return uniforms(numbers) < rate


NOTHING = Asked("", "")


class Asking(NamedTuple):
    """What one question asked, of the rows that are logged, `rows` of them."""

    rows: int
    asked: Asked
    observations: Observations
    masks: Masks | None
    temperature: float
    seeds: Seeds | None
    epsilon: float | None
    at: Indices  # of these rows among the question's
    with_parameters: bool
    values: Sequence[float] | None
    states: States | None


class Decided(NamedTuple):
    """What was decided for the rows of a batch that are logged, in order."""

    time: float
    version: int
    digest: str
    degraded: bool
    asked: Sequence[Asking]
    numbers: Seeds
    actions: npt.NDArray[np.generic]
    log_probabilities: npt.NDArray[np.float64]
    parameters: npt.NDArray[np.float32]

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return ROW_BYTES * len(self.numbers) + sum(each.observations.nbytes for each in self.asked)


def asking(question: Question, chosen: Masks, values: Sequence[float] | None) -> Asking | None:
    """What a question asked, of the rows chosen (rows,); None when there are none.

    Args:
        values: of all its rows, where they were asked for.
    """
    at: Indices = slice(None) if chosen.all() else np.flatnonzero(chosen)
    rows = int(chosen.sum())
    if not rows:
        return None
    return Asking(
        rows,
        question.asked or NOTHING,
        question.observations[at],
        None if question.masks is None else question.masks[at],
        question.temperature,
        None if question.seeds is None else question.seeds[at],
        question.epsilon,
        at,
        question.with_probabilities,
        None if values is None else np.asarray(values)[at].tolist(),
        _states(question, at),
    )


def _states(question: Question, at: Indices) -> States | None:
    memory = question.memory
    return None if memory is None or memory.before is None else memory.before[at]


@dataclass(frozen=True)
class Columns:
    """The columns of files of one policy and spec."""

    pa: Any
    policy: str
    spec: PolicySpec
    rate: float

    @cached_property
    def key(self) -> tuple[str, str]:
        """What files of the same columns have in common."""
        return self.policy, self.spec.model_dump_json()

    @cached_property
    def schema(self) -> Any:
        """Names, types and metadata."""
        pa, spec = self.pa, self.spec
        text = pa.dictionary(pa.int32(), pa.string())
        types: dict[str, Any] = {
            "time": pa.timestamp("us", tz="UTC"),
            "policy": text,
            "version": pa.int64(),
            "digest": text,
            "alias": text,
            "session": pa.string(),
            "decision_id": pa.string(),
            "number": pa.uint64(),
            "sampling_rate": pa.float64(),
        }
        for name, space in spec.observation.inputs.items():
            types[name] = column_type(pa, space.row)
        if spec.state_size:
            types["recurrent_state"] = pa.list_(pa.float32(), spec.state_size)
        if spec.actions:
            types["action_mask"] = pa.list_(pa.bool_(), spec.actions)
        types |= {
            "selection": text,
            "seed": pa.uint64(),
            "temperature": pa.float64(),
            "epsilon": pa.float64(),
            "action": column_type(pa, np.dtype((spec.action.dtype, spec.action.shape))),
            "log_probability": pa.float64(),
            "parameters": pa.list_(pa.float32(), spec.parameters),
            "value": pa.float64(),
            "degraded": pa.bool_(),
        }
        return pa.schema(types, metadata={METADATA: self._metadata()})

    def _metadata(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "policy": self.policy,
                "sampling_rate": self.rate,
                "spec": self.spec.model_dump(mode="json"),
            }
        )

    def batch(self, parts: Sequence[Decided]) -> Any:
        """Rows of some batches as a record batch."""
        cells = self._cells(parts)
        arrays = [self._array(field.type, cells[field.name]) for field in self.schema]
        return self.pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _array(self, kind: Any, cells: Cells) -> Any:
        if isinstance(cells, _Sparse):
            return column(self.pa, kind, cells.values, cells.missing)
        if isinstance(cells, np.ndarray):
            return column(self.pa, kind, cells)
        return self.pa.array(cells, kind)

    def _cells(self, parts: Sequence[Decided]) -> dict[str, Cells]:
        return {**self._of_decisions(parts), **self._of_questions(parts)}

    def _of_decisions(self, parts: Sequence[Decided]) -> dict[str, Cells]:
        counts = [len(part.numbers) for part in parts]
        rows = sum(counts)

        def each(value: Callable[[Decided], Any]) -> npt.NDArray[Any]:
            return np.repeat(np.array([value(part) for part in parts]), counts)

        degraded = each(lambda part: part.degraded)
        certain = np.concatenate([part.log_probabilities for part in parts])
        return {
            "time": each(lambda part: int(part.time * 1e6)).astype("datetime64[us]"),
            "policy": [self.policy] * rows,
            "version": each(lambda part: part.version),
            "digest": [part.digest for part in parts for _ in part.numbers],
            "number": np.concatenate([part.numbers for part in parts]),
            "sampling_rate": np.full(rows, self.rate),
            "action": np.concatenate([part.actions for part in parts]),
            "log_probability": _Sparse(certain, degraded),
            "parameters": _Sparse(
                np.concatenate([part.parameters for part in parts]),
                ~_repeated(parts, lambda asked: asked.with_parameters),
            ),
            "degraded": degraded,
        }

    def _of_questions(self, parts: Sequence[Decided]) -> dict[str, Cells]:
        asked = [one for part in parts for one in part.asked]
        seen = self.spec.observation.columns(np.concatenate([one.observations for one in asked]))
        return {
            "alias": [one.asked.alias or None for one in asked for _ in range(one.rows)],
            "session": [one.asked.session or None for one in asked for _ in range(one.rows)],
            "decision_id": [text for one in asked for text in _ids(one)],
            **seen,
            "recurrent_state": self._states(asked),
            "action_mask": self._masks(asked),
            "selection": [
                None if part.degraded else _selection(one)
                for part in parts
                for one in part.asked
                for _ in range(one.rows)
            ],
            "seed": [seed for one in asked for seed in _or_nothing(one, one.seeds)],
            "temperature": _repeated(parts, lambda one: one.temperature),
            "epsilon": [one.epsilon for one in asked for _ in range(one.rows)],
            "value": [value for one in asked for value in _or_nothing(one, one.values)],
        }

    def _states(self, asked: Sequence[Asking]) -> Cells:
        states = [
            np.zeros((one.rows, self.spec.state_size), np.float32)
            if one.states is None
            else one.states
            for one in asked
        ]
        missing = np.repeat([one.states is None for one in asked], [one.rows for one in asked])
        return _Sparse(np.concatenate(states), missing)

    def _masks(self, asked: Sequence[Asking]) -> _Sparse:
        masks = joined_masks(
            [one.masks for one in asked], [one.rows for one in asked], self.spec.actions
        )
        missing = np.repeat([one.masks is None for one in asked], [one.rows for one in asked])
        everything = np.ones((len(missing), self.spec.actions), np.bool_)
        return _Sparse(everything if masks is None else masks, missing)


def _repeated(parts: Sequence[Decided], value: Callable[[Asking], Any]) -> npt.NDArray[Any]:
    asked = [one for part in parts for one in part.asked]
    return np.repeat(np.array([value(one) for one in asked]), [one.rows for one in asked])


def _or_nothing(one: Asking, values: Any) -> Sequence[Any]:
    return [None] * one.rows if values is None else values


def _ids(one: Asking) -> Sequence[str | None]:
    decisions = one.asked.decisions
    if not decisions:
        return [None] * one.rows
    chosen = range(len(decisions))[one.at] if isinstance(one.at, slice) else one.at
    return [str(decisions[i]) for i in chosen]


def _selection(one: Asking) -> str:
    if one.seeds is None:
        return GREEDY
    return SAMPLE if one.epsilon is None else EPSILON_GREEDY
