"""ModelInfer: the questions of ActBatch, asked and answered in tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidInput
from services.common.registry import PolicyManifest
from services.common.server.calls import Call, Reply
from services.common.spec import ACTION, PolicySpec
from services.inference.acting import Acting
from services.inference.batching import Question
from services.inference.distribution import Decisions
from services.inference.oip.parameters import Inference
from services.inference.oip.tensors import ELSEWHERE, InputReader, Tensor, outputs_of
from services.inference.recurrent import Recurrence
from services.inference.versions import ServedVersion
from tutelage.oip.v2 import inference_pb2 as pb

LOG_PROBABILITY = Tensor("log_probability", "float64", (1,))
REFUSED = (ELSEWHERE, "classification")


class Inferring:
    """Batch handler on top of Act's."""

    def __init__(self, acting: Acting) -> None:
        self._acting = acting
        self._models: WeakKeyDictionary[ServedVersion, _Model] = WeakKeyDictionary()

    def infer(self, calls: Sequence[Call]) -> list[Reply | None]:
        """A batch of decisions a call; see BatchHandler."""
        return self._acting.answer(calls, Inference, self._questions)

    def _questions(
        self, served: ServedVersion, calls: Sequence[Call], requests: Sequence[Inference]
    ) -> list[Question | Exception]:
        model = self._models.get(served)
        if model is None:
            model = self._models[served] = _Model(served.manifest)
        together = zip(calls, requests, strict=True)
        return [self._question(served, model, *each) for each in together]

    def _question(
        self, served: ServedVersion, model: _Model, call: Call, asked: Inference
    ) -> Question | Exception:
        try:
            encode = _Encode(model, asked.request.id, model.wanted(asked.request.outputs))
            observations, flags = model.reader.read(asked.request)
            question = self._acting.question(served, encode, call, asked.how(), observations, flags)
            question.asked = asked.asked
            if served.recurrence is not None:
                return _remembering(served.recurrence, question, asked)
            return question
        except Exception as error:  # noqa: BLE001 - one call must not fail the others
            return error


class _Model:
    """A version as the protocol has it, worked out once."""

    def __init__(self, manifest: PolicyManifest) -> None:
        self.manifest, spec = manifest, manifest.spec
        self.reader = InputReader(spec)
        self._outputs = outputs_of(spec)
        self._known = {output.name: output for output in (*self._outputs, LOG_PROBABILITY)}
        self._columns = _columns(spec)

    def wanted(self, outputs: Sequence[pb.InferRequestedOutputTensor]) -> list[Tensor]:
        """The outputs that a request names, or all.

        Raises:
            InvalidInput: naming those there are.
        """
        names = [output.name for output in outputs]
        if not self._known.keys() >= {*names} or len({*names}) < len(names):
            raise InvalidInput(
                f"the outputs {names[:9]} are wanted, expected some of {[*self._known]}, each once"
            )
        for output in outputs:
            if refused := [name for name in REFUSED if name in output.parameters]:
                raise InvalidInput(
                    f"output {output.name!r} is wanted with {refused[0]}, which is not served"
                )
        return [self._known[name] for name in names] or self._outputs

    def elements(
        self, output: Tensor, decisions: Decisions, rows: slice
    ) -> npt.NDArray[np.generic] | list[Any]:
        """An output's elements for some of the rows."""
        if output.name == ACTION:
            return decisions.actions[rows]
        if output is LOG_PROBABILITY:
            return decisions.log_probabilities[rows]
        return decisions.parameters[rows, self._columns[output.name]]


class _Encode:
    """Makes the ModelInferResponse to one question."""

    def __init__(self, model: _Model, id: str, wanted: Sequence[Tensor]) -> None:
        self._model, self._id, self._wanted = model, id, wanted

    def __call__(self, question: Question, decisions: Decisions, start: int) -> bytes:
        """As batching.Encode."""
        manifest, rows = self._model.manifest, slice(start, start + question.rows)
        response = pb.ModelInferResponse(
            model_name=manifest.policy, model_version=str(manifest.version), id=self._id
        )
        if question.seeds is not None:
            response.parameters["seed"].uint64_param = int(question.seeds[0])
        if question.memory is not None and question.memory.was_reset:
            response.parameters["state_reset"].bool_param = True
        for output in self._wanted:
            response.outputs.add(
                name=output.name,
                datatype=output.datatype,
                shape=[question.rows, *output.shape],
            )
            elements = self._model.elements(output, decisions, rows)
            little = np.dtype(output.dtype).newbyteorder("<")
            response.raw_output_contents.append(np.asarray(elements, little).tobytes())
        content: bytes = response.SerializeToString()
        return content


def _remembering(recurrence: Recurrence, question: Question, asked: Inference) -> Question:
    if not asked.session or question.rows > 1:
        raise InvalidInput(
            f"the policy is recurrent: send one observation at a time, of {question.rows} here, "
            "with the sequence_id whose state is kept, and sequence_start with an episode's first"
        )
    return recurrence.kept(question, asked.session, np.array([asked.starts]))


def _columns(spec: PolicySpec) -> Mapping[str, slice]:
    """Where in a row of parameters each output stands."""
    ends = np.cumsum([*spec.outputs.values()]).tolist()
    starts = [0, *ends]
    return {name: slice(*at) for name, *at in zip(spec.outputs, starts, ends, strict=False)}
