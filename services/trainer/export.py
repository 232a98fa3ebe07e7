"""From a torch network to an ONNX file that is known to say the same."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnxruntime
import torch
from torch import Tensor, nn

from services.common.action_space import Box
from services.common.errors import InvalidConfig, ModelRejected
from services.common.spec import ACTION, OBSERVATION, VALUE, DictSpace, PolicySpec
from services.trainer.action_masks import MASK
from services.trainer.heads import head_of
from services.trainer.losses import FORBIDDEN, only_allowed

BATCHES = (1, 2, 7, 64)
TOLERANCE = 1e-4
EXPORTERS = ("torch.onnx", "onnxscript", "onnx_ir")
"""Loggers of what exports."""


Observed = Tensor | list[Tensor]
"""An array, or the parts of a Dict."""


class _WithGreedyAction(nn.Module):
    """What a model file gives: the policy's outputs, and the best action."""

    def __init__(self, network: nn.Module, spec: PolicySpec) -> None:
        super().__init__()
        device = next(iter(network.state_dict().values())).device
        self.network, self.head = network, head_of(spec).to(device)

    def forward(self, observation: Observed) -> tuple[Tensor, ...]:
        parameters = self.network(_row(observation))  # (B, P)
        return *self.head.outputs(parameters), self.head.greedy(parameters)


class _WithValue(_WithGreedyAction):
    """The same, and what a critic says."""

    def forward(self, observation: Observed) -> tuple[Tensor, ...]:
        row = _row(observation)
        parameters = self.network(row)  # (B, P)
        value: Tensor = self.network.value(row)  # type: ignore[operator]
        return *self.head.outputs(parameters), self.head.greedy(parameters), value


class _WithMask(_WithGreedyAction):
    """The same of what a mask allows."""

    def forward(self, observation: Observed, action_mask: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        parameters = only_allowed(self.network(_row(observation)), action_mask)  # (B, A)
        return *self.head.outputs(parameters), self.head.greedy(parameters)


def _row(observation: Observed) -> Tensor:
    """What networks take of a Dict: its parts side by side; see `observations.rows`."""
    if isinstance(observation, Tensor):
        return observation
    flat = (p.flatten(1) if p.dim() > 1 else p.unsqueeze(1) for p in observation)
    return torch.cat([part.float() for part in flat], dim=1)


class Exporter:
    """Exports the networks of a run, which differ in their weights alone.

    Tracing a network takes seconds; so it is done once, and later networks are put into the
    traced model weight by weight. Every model is compared with its network, however made.
    """

    def __init__(self, spec: PolicySpec) -> None:
        self._spec = spec
        self._traced: onnx.ModelProto | None = None

    def export(self, network: nn.Module, observations: npt.NDArray[Any]) -> bytes:
        """An ONNX model of the platform's signature.

        Args:
            network: (B, *observation) → (B, P), the spec's outputs side by side; where the spec
                says `valued`, its method `value` gives (B,) values.
            observations: (n ≥ 2, *shape) real ones, to trace and to compare with.

        Raises:
            ModelRejected: when ONNX Runtime's answers differ from torch's.
        """
        module = _kind(self._spec)(network, self._spec).eval()
        weights = {n: t.cpu().numpy() for n, t in module.state_dict().items()}
        if self._traced is not None:
            try:
                return self._checked(_with_weights(self._traced, weights), module, observations)
            except ModelRejected:  # some weights had become part of others, as BatchNorm's do
                self._traced = None
        model = onnx.load_from_string(_trace(module, self._spec, observations))
        self._traced = model if _keeps_apart(model, weights) else None
        return self._checked(model, module, observations)

    def _checked(
        self, model: onnx.ModelProto, module: nn.Module, observations: npt.NDArray[Any]
    ) -> bytes:
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString()
        check_parity(content, module, self._spec, observations)
        return content


def _kind(spec: PolicySpec) -> type[_WithGreedyAction]:
    if spec.masked and spec.valued:
        raise InvalidConfig("a policy that takes masks is exported without a critic's value")
    if spec.valued:
        return _WithValue
    return _WithMask if spec.masked else _WithGreedyAction


def _trace(module: nn.Module, spec: PolicySpec, observations: npt.NDArray[Any]) -> bytes:
    device = next(module.parameters()).device
    sample = _inputs(spec, observations[:2])
    arguments = _arguments(spec, sample, device)
    batch = torch.export.Dim("batch", min=1)
    dynamic = {name: _batched(argument, batch) for name, argument in arguments.items()}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module,
            tuple(arguments.values()),
            str(path),
            input_names=list(sample),
            output_names=[*spec.outputs, ACTION, *([VALUE] if spec.valued else [])],
            dynamic_shapes=dynamic,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        return path.read_bytes()


def _keeps_apart(model: onnx.ModelProto, weights: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Whether each weight that the model uses is in it under its own name.

    The exporter merges weights that are equal, as those of a fresh LayerNorm are, lifts some
    into constants without a name, and leaves out those that the output does not depend on,
    such as a critic's.
    """
    held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return not any(
        np.array_equal(np.sort(weights[missing], axis=None), np.sort(constant, axis=None))
        for missing in weights.keys() - held.keys()
        for constant in held.values()
        if constant.size == weights[missing].size
    )


def _with_weights(
    model: onnx.ModelProto, weights: Mapping[str, npt.NDArray[Any]]
) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
    return changed


def check_parity(
    model: bytes, module: nn.Module, spec: PolicySpec, observations: npt.NDArray[Any]
) -> None:
    """Compare ONNX Runtime with torch in several batch sizes, extremes of the data included.

    Raises:
        ModelRejected: with the largest difference found.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    device = next(module.parameters()).device
    for size in BATCHES:
        rows = _with_extremes(observations)
        inputs = _inputs(spec, rows[np.arange(size) % len(rows)])
        ours = session.run(None, inputs)
        with torch.no_grad():
            outputs = module(**_arguments(spec, inputs, device))
            theirs = [output.cpu().numpy() for output in outputs]
        best = _is_best(ours, spec)
        if spec.masked:  # beside what stands for forbidden actions all else is small
            ours, theirs = (_allowed_apart(outputs, inputs[MASK]) for outputs in (ours, theirs))
        difference = float(np.max([*map(_difference, ours, theirs)]))  # NaN if one is
        if not difference <= TOLERANCE or not best:
            raise ModelRejected(
                f"the exported model differs from the network by {difference:.2g} "
                f"(relative) on a batch of {size}, expected at most {TOLERANCE:.0e}"
            )


def _difference(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    """The largest, relative to the largest number; none between whole numbers, whose ties may
    be broken either way."""
    if ours.dtype.kind == "i":
        return 0.0
    scale = max(1.0, float(np.abs(theirs).max()))
    return float(np.abs(ours - theirs).max()) / scale


def _is_best(outputs: list[npt.NDArray[Any]], spec: PolicySpec) -> bool:
    """Whether indices of actions are those of the greatest numbers beside them."""
    if isinstance(spec.action, Box):
        return True
    parts = np.split(outputs[0], spec.action.starts[1:], axis=1)
    best = np.stack([part.argmax(axis=1) for part in parts], axis=1)
    return np.array_equal(best.reshape(outputs[1].shape), outputs[1])


def _allowed_apart(
    outputs: list[npt.NDArray[Any]], masks: npt.NDArray[np.bool_]
) -> list[npt.NDArray[Any]]:
    parameters, actions = outputs
    return [np.where(masks, parameters, parameters / -FORBIDDEN), actions]


def _inputs(spec: PolicySpec, observations: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """What a model is given, by name: observations, and masks that differ and allow something."""
    inputs = spec.observation.columns(observations)
    if not spec.masked:
        return inputs
    masks = np.random.default_rng(0).random((len(observations), spec.actions)) < 0.5
    masks[np.arange(len(masks)), np.arange(len(masks)) % spec.actions] = True
    return {**inputs, MASK: masks}


def _arguments(
    spec: PolicySpec, inputs: Mapping[str, npt.NDArray[Any]], device: torch.device
) -> dict[str, Any]:
    """The same as a module takes it: a Dict's parts as one argument."""
    tensors = {name: torch.as_tensor(array, device=device) for name, array in inputs.items()}
    if not isinstance(spec.observation, DictSpace):
        return tensors
    parts = [tensors.pop(name) for name in spec.observation.inputs]
    return {OBSERVATION: parts, **tensors}


def _batched(argument: Observed, batch: Any) -> Any:
    """Which axis of an argument is the batch."""
    return [{0: batch} for _ in argument] if isinstance(argument, list) else {0: batch}


def _with_extremes(observations: npt.NDArray[Any]) -> npt.NDArray[Any]:
    ends = np.empty((2, *observations.shape[1:]), observations.dtype)
    for name in observations.dtype.names or (...,):
        ends[name][0], ends[name][1] = (
            observations[name].min(axis=0),
            observations[name].max(axis=0),
        )
    return np.concatenate([ends, observations])


class _quiet:  # noqa: N801 - reads as a statement
    """The exporter speaks of its own passes and deprecations; none concern the user."""

    def __enter__(self) -> None:
        self._levels = {name: logging.getLogger(name).level for name in EXPORTERS}
        for name in EXPORTERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *error: object) -> None:
        self._warnings.__exit__(*error)  # type: ignore[arg-type]
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
