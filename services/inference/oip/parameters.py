"""What a request says beside its tensors, as ActBatch has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.common.errors import InvalidInput
from services.inference.batching import Asked
from services.inference.split import STABLE
from tutelage.oip.v2 import inference_pb2 as pb
from tutelage.v1 import policy_pb2

SELECTIONS: Mapping[str, Any] = {
    "": policy_pb2.ACTION_SELECTION_UNSPECIFIED,
    "greedy": policy_pb2.ACTION_SELECTION_GREEDY,
    "sample": policy_pb2.ACTION_SELECTION_SAMPLE,
    "epsilon_greedy": policy_pb2.ACTION_SELECTION_EPSILON_GREEDY,
}
SESSION, START, SELECTION = "sequence_id", "sequence_start", "selection"
OURS = (SELECTION, "seed", "temperature", "epsilon", SESSION, START)
# What Triton's clients may say that changes nothing here.
IGNORED = ("sequence_end", "priority", "timeout")
RESERVED = "triton_"
LONGEST = 18  # digits, so that a version is an int64


@dataclass(frozen=True, slots=True)
class Inference:
    """A ModelInfer request, and whom it is for as Act has that."""

    request: pb.ModelInferRequest
    version: int
    alias: str

    @classmethod
    def FromString(cls, content: bytes) -> Inference:  # noqa: N802 - as messages have it
        """From the wire.

        Raises:
            DecodeError: when the bytes are no ModelInferRequest.
        """
        request = pb.ModelInferRequest.FromString(content)
        return cls(request, *address(request.model_version))

    @property
    def policy(self) -> str:
        """Its name; empty for the only one."""
        name: str = self.request.model_name
        return name

    @property
    def session(self) -> str:
        """Which share of a split it falls in."""
        parameters = self.request.parameters
        return str(value(parameters[SESSION]) or "") if SESSION in parameters else ""

    @property
    def recurrent_state(self) -> bytes:
        """Never: states are kept by session."""
        return b""

    @property
    def starts(self) -> bool:
        """Whether an episode does."""
        parameters = self.request.parameters
        return START in parameters and value(parameters[START]) is True

    @property
    def asked(self) -> Asked:
        """What a log of decisions says of it."""
        return Asked("" if self.version else self.alias or STABLE, self.session)

    def how(self) -> policy_pb2.ActBatchRequest:
        """How actions are to be chosen.

        Raises:
            InvalidInput: for a parameter that is unknown, or of another type.
        """
        parameters, how = self.request.parameters, policy_pb2.ActBatchRequest()
        for name in parameters:
            if name not in OURS and name not in IGNORED and not name.startswith(RESERVED):
                raise InvalidInput(
                    f"parameter {name[:99]!r} is not known; there are: {', '.join(OURS)}"
                )
        if SELECTION in parameters:
            how.selection = _selection(value(parameters[SELECTION]))
        for name in ("seed", "temperature", "epsilon"):
            if name in parameters:
                _set(how, name, value(parameters[name]))
        return how


def address(version: str) -> tuple[int, str]:
    """The version and alias that a model's version stands for; neither in what is empty.

    Digits are a version; -1, which nothing is, where they are none.
    """
    if not version.isdecimal():
        return 0, version
    return (int(version) if len(version) <= LONGEST else -1) or -1, ""


def value(parameter: pb.InferParameter) -> Any:
    """What a parameter holds; None where it holds nothing."""
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _selection(name: object) -> Any:
    if not isinstance(name, str) or name not in SELECTIONS:
        expected = ", ".join(filter(None, SELECTIONS))
        raise InvalidInput(f"parameter selection is {str(name)[:99]!r}, expected one of {expected}")
    return SELECTIONS[name]


def _set(how: policy_pb2.ActBatchRequest, name: str, number: object) -> None:
    kind = int if name == "seed" else float
    try:
        if isinstance(number, bool):
            raise TypeError
        setattr(how, name, kind(number) if isinstance(number, int) else number)
    except (TypeError, ValueError):
        expected = "a whole number of 64 bits" if kind is int else "a number"
        raise InvalidInput(
            f"parameter {name} is {str(number)[:99]!r}, expected {expected}"
        ) from None
