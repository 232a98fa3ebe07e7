"""config.pbtxt, with which Triton loads a policy's folder as it stands."""

from __future__ import annotations

from services.common.spec import ObservationSpace, PolicySpec, StatePart

PLATFORM = "onnxruntime_onnx"
_TYPES = {
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
}


def model_configuration(policy: str, spec: PolicySpec) -> str:
    """Triton's ModelConfig of an ONNX policy, as protobuf text.

    Follows the ONNX signature of the platform: `observation` in, or `observation.<part>` for each
    part of a Dict, and `action_mask` where the policy takes one; the distribution's parameters
    and the greedy `action` out; the first axis is the batch. A recurrent policy is asked for
    sequences, of which Triton keeps the state.
    """
    inputs = ",\n".join(_input(*named) for named in spec.observation.inputs.items())
    if spec.masked:
        inputs += f',\n  {{ name: "action_mask", data_type: TYPE_BOOL, dims: [ {spec.actions} ] }}'
    outputs = "".join(
        f'  {{ name: "{name}", data_type: TYPE_FP32, dims: [ {length} ] }},\n'
        for name, length in spec.outputs.items()
    )
    if spec.valued:
        outputs += f'  {{ name: "value", data_type: TYPE_FP32, {_dims(())} }},\n'
    return f"""name: "{policy}"
platform: "{PLATFORM}"
max_batch_size: 1024
input [
{inputs}
]
output [
{outputs}  {{ name: "action", data_type: {_TYPES[spec.action.dtype]}, {_dims(spec.action.shape)} }}
]
version_policy: {{ all: {{ }} }}
{_sequences(spec)}"""


def _input(name: str, space: ObservationSpace) -> str:
    return f'  {{ name: "{name}", data_type: {_TYPES[space.dtype]}, {_dims(space.shape)} }}'


def _sequences(spec: PolicySpec) -> str:
    if not spec.state:
        return ""
    parts = ",\n".join(map(_state, spec.state))
    return f"sequence_batching {{\n  state [\n{parts}\n  ]\n}}\n"


def _state(part: StatePart) -> str:
    is_like = f"data_type: TYPE_FP32, {_dims(part.shape)}"
    return (
        f'    {{ input_name: "{part.input}", output_name: "{part.output}", {is_like},\n'
        f'      initial_state: {{ {is_like}, zero_data: true, name: "zero" }} }}'
    )


def _dims(shape: tuple[int, ...]) -> str:
    if not shape:  # Triton has no scalars
        return "dims: [ 1 ], reshape: { shape: [ ] }"
    return f"dims: [ {', '.join(str(length) for length in shape)} ]"
