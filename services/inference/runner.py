"""One loaded version of a policy: an onnxruntime session that has been checked and warmed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from services.common.action_space import Box
from services.common.errors import InvalidInput, ModelRejected
from services.common.spec import ACTION, MASK, VALUE, DictSpace, ObservationSpace, PolicySpec
from services.inference.model import check_content, check_signature, check_value, with_outputs
from services.inference.operators import ModelLimits
from services.inference.pace import Pace
from services.inference.vectors import decider

Observations = npt.NDArray[np.generic]
Parameters = npt.NDArray[np.float32]
States = npt.NDArray[np.float32]  # of a recurrent policy: (n, spec.state_size)
WARM_UP_RUNS = 5
WIDER, QUICK_S = 4, 1e-3  # times as many rows in a run that takes no longer than this
ACTION_TOLERANCE = 1e-4  # of float32 arithmetic, in normalised units
DEFAULT_LIMITS = ModelLimits()


@dataclass(frozen=True, slots=True)
class Tried:
    """What a trial found of a model.

    min_rows, max_rows: of its runs. bytes: that it takes in memory, about.
    """

    min_rows: int
    max_rows: int
    bytes: int


class ModelFailed(InvalidInput):
    """The model has no answer to what fits its policy's spec."""


class PolicyRunner:
    """Runs a model on batches; what a row gives never depends on its company.

    Matrix kernels may sum in another order at another batch size, and a changed last bit
    can change a sampled action. So loading compares batch sizes bit by bit, and where they
    differ small batches are padded, or rows run one by one: see `min_rows` and `max_rows`.

    Building one takes milliseconds to seconds; it belongs in a thread. The bytes are untrusted:
    what they do elsewhere first (see `trials`) is not done again.

    Raises:
        ModelRejected: when the file must not be served, with the reason.
    """

    def __init__(
        self,
        model: bytes,
        spec: PolicySpec,
        *,
        max_batch: int = 64,
        intra_op_threads: int = 1,
        limits: ModelLimits = DEFAULT_LIMITS,
        tried: Tried | None = None,
    ) -> None:
        if tried is None:
            check_content(model, limits)
        self.bytes = len(model) if tried is None else tried.bytes
        self.spec = spec
        self._critic: ort.InferenceSession | None = None
        if spec.valued:
            self._critic = _open(with_outputs(model, lambda name: name == VALUE), intra_op_threads)
            check_value(self._critic)
            model = with_outputs(model, lambda name: name != VALUE)
        self._session = _open(model, intra_op_threads)
        check_signature(self._session, spec)
        self._masked = any(node.name == MASK for node in self._session.get_inputs())
        self.decide = decider(spec)
        self._outputs = list(spec.outputs) or [ACTION]
        self._outputs += [part.output for part in spec.state]
        self._is_recurrent = bool(spec.state)
        self._is_plain = not (self._masked or self._is_recurrent) and len(self._outputs) == 1
        self._warm_up(max_batch, tried)

    def run(
        self, observations: Observations, masks: npt.NDArray[np.bool_] | None = None
    ) -> Parameters:
        """The policy's output `(n, parameters)` for observations `(n, *shape)`.

        A recurrent policy's is that for an episode's first step.

        Raises:
            ModelFailed: when the model fails on them, or its output is not finite.
        """
        outputs = self._finite(observations, masks, None)
        return outputs[:, : self.spec.parameters] if self._is_recurrent else outputs

    def step(
        self, observations: Observations, masks: npt.NDArray[np.bool_] | None, states: States
    ) -> tuple[Parameters, States]:
        """The output of a recurrent policy as of `run`, and the states after; each has a row for
        each observation.

        Raises:
            ModelFailed: as `run`; so also when a state after is not finite.
        """
        outputs, width = self._finite(observations, masks, states), self.spec.parameters
        return outputs[:, :width], outputs[:, width:].astype(np.float32)

    def _finite(
        self,
        observations: Observations,
        masks: npt.NDArray[np.bool_] | None,
        states: States | None,
    ) -> Parameters:
        started = time.perf_counter()
        try:
            outputs = self._chunks(observations, masks, states)
        except Exception as error:
            raise ModelFailed(f"the policy fails on this observation: {error}") from error
        self._pace.took(len(observations), time.perf_counter() - started)
        flat = outputs.ravel()
        # A finite sum of squares means finite elements; an infinite one proves nothing.
        if not math.isfinite(flat.dot(flat)) and not np.isfinite(flat).all():
            raise ModelFailed(
                "the policy's output is not finite for this observation; "
                "is it in the range the policy was trained on?"
            )
        return outputs

    def values(
        self, observations: Observations, masks: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.float32]:
        """What the critic of a policy that is `valued` expects from observations on, (n,).

        Raises:
            ModelFailed: when the model fails on them, or a value is not finite.
        """
        assert self._critic is not None
        try:
            (values,) = self._critic.run([VALUE], self._feeds(observations, masks, None))
        except Exception as error:
            raise ModelFailed(f"the critic fails on this observation: {error}") from error
        if values.shape != (len(observations),) or not np.isfinite(values).all():
            raise ModelFailed("the critic's value is not finite for this observation")
        found: npt.NDArray[np.float32] = values
        return found

    def run_s(self, rows: int) -> float:
        """Seconds that a run of so many rows takes, by what the warm-up and runs since took."""
        return self._pace.of(rows)

    def _chunks(
        self,
        observations: Observations,
        masks: npt.NDArray[np.bool_] | None,
        states: States | None,
    ) -> Parameters:
        rows, most = len(observations), self.max_rows
        if self.min_rows <= rows <= most:
            return self._run(observations, masks, states)
        parts = []
        for start in range(0, rows, most):
            stop = min(start + most, rows)
            # Indices past the end repeat the last row, which is then cut off.
            padded = max(stop - start, self.min_rows)
            index: slice | npt.NDArray[np.intp] = slice(start, stop)
            if padded > stop - start:
                index = np.minimum(np.arange(start, start + padded), stop - 1)
            part = self._run(
                observations[index],
                None if masks is None else masks[index],
                None if states is None else states[index],
            )
            parts.append(part[: stop - start])
        return np.concatenate(parts)

    def _run(
        self,
        observations: Observations,
        masks: npt.NDArray[np.bool_] | None,
        states: States | None,
    ) -> Parameters:
        if self._is_plain:  # what the way below comes to, without its steps
            feeds = self.spec.observation.columns(observations)
            outputs: list[Parameters] = self._session.run(self._outputs, feeds)
            return outputs[0] if outputs[0].ndim == 2 else self._parameters(outputs)
        return self._parameters(
            self._session.run(self._outputs, self._feeds(observations, masks, states))
        )

    def _feeds(
        self,
        observations: Observations,
        masks: npt.NDArray[np.bool_] | None,
        states: States | None,
    ) -> dict[str, npt.NDArray[Any]]:
        feeds = self.spec.observation.columns(observations)
        if self._masked:
            everything = (len(observations), self.spec.actions)
            feeds[MASK] = np.ones(everything, dtype=np.bool_) if masks is None else masks
        if self._is_recurrent:
            feeds |= state_columns(self.spec, states, len(observations))
        return feeds

    def _parameters(self, outputs: list[npt.NDArray[Any]]) -> Parameters:
        """Outputs side by side, (n, parameters), and behind them a recurrent policy's states."""
        rows = len(outputs[0])
        flat = [output.reshape(rows, -1) for output in outputs]
        parameters: Parameters = flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
        return parameters

    def _warm_up(self, max_batch: int, tried: Tried | None) -> None:
        self.min_rows, self.max_rows = 1, max_batch
        probe, states = probe_observations(self.spec, max_batch), probe_states(self.spec, max_batch)
        try:
            self._check_outputs(probe, None)  # which is how an episode starts
            if states is not None:
                self._check_outputs(probe, states)
            if tried is None:
                self._find_steady_sizes(probe, states)
            first_s = self._time(probe[:1])
            row_s = max(0.0, self._time(probe) - first_s) / max(1, max_batch - 1)
            self._pace = Pace(first_s, row_s)
            if tried is None:
                self._widen(max_batch)
            else:
                self.min_rows, self.max_rows = tried.min_rows, tried.max_rows
            if self._critic is not None:
                self.values(probe[:2])
        except ModelRejected:
            raise
        except Exception as error:
            raise ModelRejected(f"the model fails on a trial batch: {error}") from error

    def _check_outputs(self, probe: Observations, states: States | None) -> None:
        rows, spec = len(probe), self.spec
        names = [*spec.outputs, ACTION, *(part.output for part in spec.state)]
        expected = [
            *([rows, length] for length in spec.outputs.values()),
            [rows, *spec.action.shape],
            *([rows, *part.shape] for part in spec.state),
        ]
        outputs = self._session.run(names, self._feeds(probe, None, states))
        for name, output, shape in zip(names, outputs, expected, strict=True):
            if list(output.shape) != shape:
                raise ModelRejected(
                    f"a batch of {rows} gives {name} of shape {list(output.shape)}, "
                    f"expected {shape}"
                )
            if not np.isfinite(output).all():
                raise ModelRejected(f"{name} is not finite on a trial batch")
        beside = len(spec.outputs)
        self._check_greedy(self._parameters(outputs[: beside or 1]), outputs[beside])

    def _check_greedy(self, parameters: Parameters, greedy: npt.NDArray[Any]) -> None:
        space, ours = self.spec.action, np.asarray(self.decide(parameters).actions)
        if not isinstance(space, Box):
            if not np.array_equal(ours, greedy):
                of = self._outputs[0]
                raise ModelRejected(f"output 'action' is not the index of the greatest of {of}")
            return
        flat = greedy.reshape(len(greedy), -1)  # (rows, size)
        off = np.abs(ours.reshape(flat.shape) - flat).max() / space.half.max()
        if off > ACTION_TOLERANCE * max(1, np.abs(flat).max()):
            raise ModelRejected(f"output 'action' is {off:.2g} off what {self._outputs[0]} says")
        if (flat < space.lower).any() or (flat > space.upper).any():
            raise ModelRejected(f"output 'action' leaves the bounds of {space}")

    def _find_steady_sizes(self, probe: Observations, states: States | None) -> None:
        most = len(probe)
        sizes = sorted({*range(1, min(most, 9) + 1), 15, 16, 17, 31, 32, 33, most})
        reference = self._run(probe, None, states)
        steady = 1
        for size in (size for size in sizes if size <= most):
            # Several tries at the small sizes, whose few rows may agree by chance.
            for shift in range(max(1, 8 // size)):
                rows = np.roll(np.arange(most), -shift * size - size // 2)[:size]
                own = None if states is None else states[rows]
                if not np.array_equal(self._run(probe[rows], None, own), reference[rows]):
                    steady = size + 1
        self.min_rows = steady
        if steady > min(8, most):
            self.min_rows = self.max_rows = 1

    def _widen(self, most: int) -> None:
        """Let a run of a quick model have more rows, where that gives the same."""
        wide = WIDER * most
        if self.max_rows < most or self._pace.of(wide) > QUICK_S:
            return
        probe, states = probe_observations(self.spec, wide), probe_states(self.spec, wide)
        reference = self._chunks(probe, None, states)
        for size in (most + 1, 2 * most - 1, 2 * most, 2 * most + 1, wide - 1, wide):
            own = None if states is None else states[:size]
            if not np.array_equal(self._run(probe[:size], None, own), reference[:size]):
                return
        self.max_rows = wide

    def _time(self, observations: Observations) -> float:
        fastest = float("inf")
        for _ in range(WARM_UP_RUNS):
            started = time.perf_counter()
            self._chunks(observations, None, None)
            fastest = min(fastest, time.perf_counter() - started)
        return fastest


def probe_observations(spec: PolicySpec, rows: int) -> Observations:
    """Observations `(rows, *shape)` to try a model on; the same ones every time."""
    generator = np.random.default_rng(0)
    if not isinstance(spec.observation, DictSpace):
        return _probe(spec.observation, rows, generator)
    together = np.empty(rows, spec.observation.row)
    for key, space in spec.observation.parts.items():
        together[key] = _probe(space, rows, generator)
    return together


def probe_states(spec: PolicySpec, rows: int) -> States | None:
    """Likewise states `(rows, state_size)` of a recurrent policy, within [-1, 1)."""
    if not spec.state:
        return None
    shape = (rows, spec.state_size)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def state_columns(
    spec: PolicySpec, states: States | None, rows: int
) -> dict[str, npt.NDArray[np.float32]]:
    """What a recurrent model's inputs are given of states; None: those of an episode's start."""
    if states is None:
        states = np.zeros((rows, spec.state_size), dtype=np.float32)
    ends = np.cumsum([part.size for part in spec.state])
    columns = np.split(states, ends[:-1], axis=1)
    return {
        part.input: np.ascontiguousarray(column).reshape(rows, *part.shape)
        for part, column in zip(spec.state, columns, strict=True)
    }


def _probe(space: ObservationSpace, rows: int, generator: np.random.Generator) -> Observations:
    shape, dtype = (rows, *space.shape), np.dtype(space.dtype)
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    # Wider integers are indices as a rule, of which only small ones exist everywhere.
    return generator.integers(0, 256 if dtype == np.uint8 else 2, shape).astype(dtype)


def _open(model: bytes, intra_op_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    # A waiting thread that spins takes the core the event loop needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelRejected(f"onnxruntime cannot load model.onnx: {error}") from error
