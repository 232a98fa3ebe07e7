"""What a model may be made of."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
from google.protobuf.message import Message

from services.common.errors import ModelRejected

MIB = 1 << 20
DOMAINS = ("", "ai.onnx")
# What networks are exported as. Not among them: subgraphs and loops, which may not end; what draws
# numbers of its own, as the same question would have two answers; sequences, text and files; and
# what makes shapes of values (NonZero, Unique, …), by which a question could ask for any memory.
OPERATORS = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
    BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil
    Celu Clip Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum
    DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp
    Expand Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish
    Hardmax Identity InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu
    Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool
    Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow
    QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Selu Shape Shrink Sigmoid
    Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum
    Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
    """.split()  # noqa: SIM905
)
# Those that make as much as they are told to, with the inputs that tell, and others whose outputs'
# shapes are told by inputs.
GROWING = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Tile": (1,),
}
REDUCING = [name for name in OPERATORS if name.startswith("Reduce")]
SHAPED = {
    **GROWING,
    **dict.fromkeys([*REDUCING, "Reshape", "Split", "Squeeze", "TopK", "Unsqueeze"], (1,)),
    "Slice": (1, 2, 3, 4),
}
MEASURING = ("Shape", "Size")


@dataclass(frozen=True)
class ModelLimits:
    """How large a model may be, and of what.

    bytes: of the file, and of all tensors in it. operators: beside `OPERATORS`.
    """

    bytes: int = 256 * MIB
    nodes: int = 10_000
    operators: frozenset[str] = frozenset()


def check_parts(model: onnx.ModelProto, limits: ModelLimits) -> None:
    """Refuse a model that is too large, or is made of what is not known to be harmless.

    Raises:
        ModelRejected: naming the part.
    """
    if model.functions:
        raise ModelRejected(
            f"function {model.functions[0].name!r} is defined in the model; export it without"
        )
    nodes = size = 0
    for part in _walk(model):
        if isinstance(part, onnx.SparseTensorProto):
            raise ModelRejected("the model holds a sparse tensor, expected dense ones")
        if isinstance(part, onnx.TensorProto):
            size += _checked_size(part)
        if isinstance(part, onnx.NodeProto):
            nodes += 1
            _check_operator(part, limits)
    if nodes > limits.nodes:
        raise ModelRejected(f"the model has {nodes} operators, the limit is {limits.nodes}")
    if size > limits.bytes:
        raise ModelRejected(f"tensors take {size} bytes, the limit is {limits.bytes}")
    _check_shapes(model.graph)


def grows(model: onnx.ModelProto) -> bool:
    """Whether an operator's output may be larger at one batch size than at a greater one."""
    return any(node.op_type in GROWING for node in model.graph.node)


def _check_operator(node: onnx.NodeProto, limits: ModelLimits) -> None:
    if node.domain not in DOMAINS:
        raise ModelRejected(
            f"operator {node.op_type} is of domain {node.domain!r}, expected ONNX's own"
        )
    if node.op_type not in OPERATORS | limits.operators:
        raise ModelRejected(
            f"operator {node.op_type!r} is not one that is served; if the model is to be trusted, "
            "name it in TUTELAGE_INFERENCE_OPERATORS"
        )


def _checked_size(tensor: onnx.TensorProto) -> int:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ModelRejected(
            f"tensor {tensor.name!r} is stored in another file; export the model as one file"
        )
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError:
        raise ModelRejected(f"tensor {tensor.name!r} has no element type") from None
    if min(tensor.dims, default=0) < 0:
        raise ModelRejected(f"tensor {tensor.name!r} has the shape {[*tensor.dims]}")
    return math.prod(tensor.dims) * dtype.itemsize


def _check_shapes(graph: onnx.GraphProto) -> None:
    """Refuse a graph in which what callers send tells how much is made of it.

    What they send has a shape, and only that may tell.
    """
    takers = defaultdict[str, list[onnx.NodeProto]](list)
    for node in graph.node:
        for name in {*node.input}:
            takers[name].append(node)
    said = deque({each.name for each in graph.input})
    seen = set(said)
    while said:
        name = said.popleft()
        for node in takers[name]:
            if name in [node.input[i] for i in SHAPED.get(node.op_type, ()) if i < len(node.input)]:
                raise ModelRejected(
                    f"operator {node.op_type} {node.name!r} makes what an observation says, "
                    "expected shapes that follow from the batch alone"
                )
            new = {*node.output} - seen if node.op_type not in MEASURING else set()
            seen |= new
            said.extend(new)


def _walk(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in value if isinstance(value, Sequence) else (value,):
            yield from _walk(part)
