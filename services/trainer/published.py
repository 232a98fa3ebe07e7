"""A published policy, run as it was published: by ONNX Runtime, from the repository."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from services.common.errors import PreconditionFailed
from services.common.registry import PolicyRegistry


class PublishedPolicy:
    """The version that an alias pointed at when this was made.

    Raises:
        PreconditionFailed: when nothing is published under the alias.
        ModelRejected: when the model file is not what was published.
    """

    def __init__(self, registry: PolicyRegistry, policy: str, alias: str) -> None:
        state = registry.aliases(policy).get(alias)
        if state is None:
            raise PreconditionFailed(f"policy {policy!r} has no version {alias!r}; train one first")
        published = registry.load(policy, state.version)
        self.manifest = published.manifest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            published.model, options, providers=["CPUExecutionProvider"]
        )

    def greedy(
        self, observations: npt.NDArray[Any], masks: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.int64]:
        """(B, *shape), and which actions are allowed, (B, actions), all if not given → (B,)"""
        spec = self.manifest.spec
        inputs = spec.observation.columns(observations)
        if spec.masked:
            everything = np.ones((len(observations), spec.actions), dtype=bool)
            inputs["action_mask"] = everything if masks is None else masks
        (actions,) = self._session.run(["action"], inputs)
        chosen: npt.NDArray[np.int64] = actions
        return chosen
