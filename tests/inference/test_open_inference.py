"""A stock Triton client asks policies as models, over real gRPC on each transport."""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest
import tritonclient.grpc as triton
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from inference_process import InferenceProcess
from recurrent_policies import CUE, NOTHING, RIGHT_CUE, cue_model
from tiny_policies import (
    CARTPOLE,
    WEIGHTS,
    box_model,
    components_model,
    linear_model,
    publish,
)
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from services.common.action_space import Box, MultiDiscrete
from services.common.registry import PolicyRegistry
from services.common.spec import Distribution, ObservationSpace, PolicySpec
from tutelage.oip.v2 import inference_pb2

SERVICE = "inference.GRPCInferenceService"
STATES = np.array([[0, 0, 0.1, 0], [0, 0, -0.1, 0], [1, 2, 3, 4]], dtype=np.float32)


@pytest.fixture
def service(start_service: Any, registry: PolicyRegistry) -> InferenceProcess:
    publish(registry, linear_model())
    return start_service()


@pytest.fixture
def client(service: InferenceProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.address) as client:
        yield client


def given(
    array: np.ndarray, datatype: str = "FP32", name: str = "observation"
) -> triton.InferInput:
    tensor = triton.InferInput(name, array.shape, datatype)
    return tensor.set_data_from_numpy(array)


def test_infer_gives_what_act_gives(
    service: InferenceProcess, client: triton.InferenceServerClient
) -> None:
    result = client.infer("cartpole", [given(STATES)], request_id="seven")

    assert result.as_numpy("q_values") == pytest.approx(STATES @ WEIGHTS)
    expected = service.client.act_batch(STATES.tolist(), policy="cartpole").actions
    assert result.as_numpy("action").tolist() == [[action] for action in expected]
    assert result.as_numpy("action").dtype == np.int64
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == ("cartpole", "1", "seven")
    assert [output.name for output in response.outputs] == ["q_values", "action"]


def test_a_draw_is_that_of_act_batch(
    service: InferenceProcess, client: triton.InferenceServerClient
) -> None:
    outputs = [triton.InferRequestedOutput(name) for name in ("log_probability", "action")]
    how = {"selection": "sample", "seed": 7, "temperature": 2.0}
    result = client.infer("", [given(STATES)], outputs=outputs, parameters=how)

    expected = service.client.act_batch(STATES.tolist(), sample=True, seed=7, temperature=2.0)
    assert result.as_numpy("action").ravel().tolist() == list(expected.actions)
    assert result.as_numpy("log_probability").ravel() == pytest.approx(expected.log_probabilities)
    assert result.get_response().parameters["seed"].uint64_param == 7
    assert result.as_numpy("q_values") is None


def test_a_version_may_be_pinned_or_named_by_its_alias(
    start_service: Any, registry: PolicyRegistry
) -> None:
    publish(registry, linear_model())
    publish(registry, linear_model(bias=(100.0, 0.0)), alias="canary")
    address = start_service().address

    with triton.InferenceServerClient(address) as client:
        answered = {
            version: client.infer("cartpole", [given(STATES[:1])], model_version=version)
            for version in ("", "1", "2", "canary")
        }

    versions = {name: r.get_response().model_version for name, r in answered.items()}
    assert versions == {"": "1", "1": "1", "2": "2", "canary": "2"}
    assert answered["2"].as_numpy("action").tolist() == [[0]]


def test_the_server_and_its_models_are_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("cartpole")
    assert client.is_model_ready("cartpole", "1")
    assert not client.is_model_ready("cartpole", "2")
    assert not client.is_model_ready("other")
    metadata = client.get_server_metadata()
    assert metadata.name == "tutelage"
    assert "model_configuration" in metadata.extensions
    assert "statistics" not in metadata.extensions


def test_a_server_that_drains_is_not_ready(start_service: Any, registry: PolicyRegistry) -> None:
    publish(registry, linear_model())
    service = start_service(inference_drain_s=10)
    with triton.InferenceServerClient(service.address) as client:
        service.process.terminate()
        service.wait_for(lambda: not client.is_server_ready())
        assert client.is_server_live()
    service.process.kill()


def test_a_model_is_described_as_its_config_says(
    client: triton.InferenceServerClient, repository: Path
) -> None:
    metadata = client.get_model_metadata("cartpole")
    config = client.get_model_config("cartpole").config

    assert (metadata.platform, list(metadata.versions)) == ("onnxruntime_onnx", ["1"])
    described = {(t.name, t.datatype, *t.shape) for t in (*metadata.inputs, *metadata.outputs)}
    assert described == {
        ("observation", "FP32", -1, 4),
        ("q_values", "FP32", -1, 2),
        ("action", "INT64", -1, 1),
    }
    written = (repository / "cartpole" / "config.pbtxt").read_text()
    assert config == text_format.Parse(written, model_config_pb2.ModelConfig())
    as_json = client.get_model_config("cartpole", as_json=True)["config"]
    assert as_json["max_batch_size"] == 1024  # which the load tool reads so
    assert as_json["input"] == [
        {"name": "observation", "data_type": "TYPE_FP32", "dims": ["4"]},
    ]


def test_the_repository_is_listed_and_looked_at_on_demand(
    start_service: Any, registry: PolicyRegistry, repository: Path
) -> None:
    publish(registry, linear_model())
    publish(registry, b"no model", alias="canary")
    service = start_service(inference_poll_s=3600, inference_retry_s=3600)
    with triton.InferenceServerClient(service.address) as client:
        index = client.get_model_repository_index().models
        assert [(m.name, m.version, m.state) for m in index] == [
            ("cartpole", "1", "READY"),
            ("cartpole", "2", "UNAVAILABLE"),
        ]
        assert "not an ONNX file" in index[1].reason
        assert not client.is_model_ready("cartpole", "2")
        ready = service_pb2.RepositoryIndexRequest(ready=True)
        with grpc.insecure_channel(service.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert [m.version for m in stub.RepositoryIndex(ready).models] == ["1"]

        publish(registry, linear_model(), policy="another")
        client.load_model("another")
        assert client.is_model_ready("another")
        with refused("INVALID_ARGUMENT", "leave the parameters out"):
            client.load_model("another", config="{}")
        with refused("NOT_FOUND", "no policy 'none'"):
            client.load_model("none")
        with refused("FAILED_PRECONDITION", "move the aliases"):
            client.unload_model("another")


def refused(status: str, why: str) -> Any:
    return pytest.raises(InferenceServerException, match=rf"StatusCode\.{status}\].*{why}")


def boolean(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, dtype=np.bool_)


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ([given(STATES.astype(np.float64), "FP64")], "is of datatype 'FP64', expected FP32"),
        ([given(STATES[:, :3])], r"has shape \[3, 3\], expected FP32 of shape \['n', 4\]"),
        ([given(STATES[0])], r"has shape \[4\], expected"),
        ([given(STATES[:0])], r"has shape \[0, 4\], expected"),
        ([given(np.full((2, 4), np.nan, np.float32))], "observation 0 holds nan"),
        ([], r"the inputs \[\], expected each of \['observation'\] once"),
        ([given(STATES), given(STATES)], "expected each of"),
        ([given(STATES), given(STATES, name="state")], "known are"),
        ([given(STATES), given(boolean((2, 2)), "BOOL", "action_mask")], "numbers of rows"),
        ([given(STATES), given(boolean((3, 2)), "BOOL", "action_mask")], "allows no action"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    aio: triton.InferenceServerClient, inputs: list[triton.InferInput], why: str
) -> None:
    with refused("INVALID_ARGUMENT", why):
        aio.infer("cartpole", inputs)


@pytest.fixture(scope="module")
def aio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    """Of a service that many tests ask: what is wrong with a request no transport sees."""
    folder = tmp_path_factory.mktemp("aio")
    publish(PolicyRegistry(str(folder / "policies")), linear_model())
    process = InferenceProcess(folder / "policies", folder / "log", inference_transport="aio")
    with triton.InferenceServerClient(process.address) as client:
        yield client
    process.stop()


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"selection": "best"}, "selection is 'best', expected one of greedy, sample"),
        ({"selection": 2}, "selection is '2'"),
        ({"temperature": "hot"}, "temperature is 'hot', expected a number"),
        ({"temperature": -1.0}, "temperature is -1.0, expected a positive"),
        ({"selection": "sample", "seed": -1}, "seed is '-1', expected a whole number"),
        ({"selection": "epsilon_greedy"}, "epsilon is missing"),
        ({"temprature": 1.0}, "'temprature' is not known"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(
    aio: triton.InferenceServerClient, parameters: dict[str, Any], why: str
) -> None:
    with refused("INVALID_ARGUMENT", why):
        aio.infer("cartpole", [given(STATES)], parameters=parameters)


def test_what_triton_reserves_is_no_hindrance(aio: triton.InferenceServerClient) -> None:
    result = aio.infer(
        "cartpole", [given(STATES)], sequence_id=7, sequence_start=True, priority=1, timeout=10**6
    )
    assert result.as_numpy("action").shape == (3, 1)


def test_outputs_and_places_that_are_not_served_are_refused(
    aio: triton.InferenceServerClient,
) -> None:
    unknown, twice = triton.InferRequestedOutput("value"), triton.InferRequestedOutput("action")
    with refused("INVALID_ARGUMENT", "expected some of"):
        aio.infer("cartpole", [given(STATES)], outputs=[unknown])
    with refused("INVALID_ARGUMENT", "each once"):
        aio.infer("cartpole", [given(STATES)], outputs=[twice, twice])
    classes = triton.InferRequestedOutput("action", class_count=2)
    with refused("INVALID_ARGUMENT", "classification, which is not served"):
        aio.infer("cartpole", [given(STATES)], outputs=[classes])
    shared = triton.InferInput("observation", [1, 4], "FP32")
    shared.set_shared_memory("region", 16)
    with refused("INVALID_ARGUMENT", "is in shared memory"):
        aio.infer("cartpole", [shared])
    for version in ("0", "9" * 99, "-1", "none"):
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT|NOT_FOUND"):
            aio.infer("cartpole", [given(STATES)], model_version=version)


def request(name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(
        name=name,
        datatype=datatype,
        shape=shape,
        contents=service_pb2.InferTensorContents(**contents),
    )
    return service_pb2.ModelInferRequest(model_name="cartpole", inputs=[tensor])


def test_elements_may_be_listed(service: InferenceProcess) -> None:
    listed = request("observation", "FP32", [1, 4], fp32_contents=[0, 0, 1, 0])
    listed.inputs.add(name="action_mask", datatype="BOOL", shape=[1, 2]).contents.CopyFrom(
        service_pb2.InferTensorContents(bool_contents=[True, False])
    )
    doubles = request("observation", "FP32", [1, 4], fp64_contents=[0, 0, 1, 0])
    both = request("observation", "FP32", [1, 4], fp32_contents=[0, 0, 1, 0])
    both.raw_input_contents.append(STATES[:1].tobytes())
    with grpc.insecure_channel(service.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        response = stub.ModelInfer(listed)
        with pytest.raises(grpc.RpcError, match="they belong in fp32_contents"):
            stub.ModelInfer(doubles)
        with pytest.raises(grpc.RpcError, match="both contents and raw"):
            stub.ModelInfer(both)

    assert len(response.raw_output_contents) == len(response.outputs) == 2
    assert triton.InferResult(response).as_numpy("action").tolist() == [[0]]


def test_a_stream_answers_each_message_in_its_order(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for i, states in enumerate([STATES, STATES[:, :2], STATES[:1]]):
        client.async_stream_infer("cartpole", [given(states)], request_id=str(i))
    client.stop_stream()

    (first, _), (nothing, error), (last, _) = [answers.get(timeout=20) for _ in range(3)]
    assert first.as_numpy("action").shape == (3, 1)
    assert nothing is None
    assert "has shape [3, 2]" in str(error)
    assert last.as_numpy("action").shape == (1, 1)
    assert last.get_response().id == "2"
    assert last.get_response().parameters["triton_final_response"].bool_param


def test_parts_boxes_and_components_have_tensors_of_their_own(
    start_service: Any, registry: PolicyRegistry
) -> None:
    box = PolicySpec(
        environment="Somewhere-v0",
        observation=ObservationSpace(dtype="float32", shape=(2,)),
        action=Box(shape=(3,), low=(-1, -1, -1), high=(1, 1, 1)),
        distribution=Distribution.GAUSSIAN,
    )
    weights = np.array([[0.1, 0.2, 0.3], [0.0, 0.0, 0.5]], dtype=np.float32)
    publish(registry, box_model(box, weights, [-1, -1, -1]), policy="box", spec=box)
    components = box.model_copy(
        update={"action": MultiDiscrete(nvec=(2, 3)), "distribution": Distribution.LOGITS}
    )
    wide = np.arange(10, dtype=np.float32).reshape(2, 5) / 10
    publish(registry, components_model(components, wide), policy="many", spec=components)
    address = start_service().address
    seen = np.array([[1, 1], [0.5, 0]], dtype=np.float32)

    with triton.InferenceServerClient(address) as client:
        result = client.infer("box", [given(seen)])
        assert result.as_numpy("mean") == pytest.approx(seen @ weights)
        assert result.as_numpy("log_std").tolist() == [[-1] * 3] * 2
        assert result.as_numpy("action") == pytest.approx(seen @ weights)
        result = client.infer("many", [given(seen)])
        assert result.as_numpy("action").tolist() == [[1, 2], [1, 2]]
        assert result.as_numpy("logits") == pytest.approx(seen @ wide)


def test_a_sequence_is_a_session_of_a_policy_that_remembers(
    start_service: Any, registry: PolicyRegistry
) -> None:
    publish(registry, cue_model(), policy="cue", spec=CUE)
    address = start_service().address
    nothing, cue = np.array([NOTHING], np.float32), np.array([RIGHT_CUE], np.float32)

    def decided(client: triton.InferenceServerClient, seen: np.ndarray, **how: Any) -> Any:
        return client.infer("cue", [given(seen)], **how)

    with triton.InferenceServerClient(address) as client:
        first = decided(client, cue, sequence_id="robot", sequence_start=True)
        assert "state_reset" not in first.get_response().parameters
        for _ in range(3):
            assert decided(client, nothing, sequence_id="robot").as_numpy("action") == [[1]]
        forgotten = decided(client, nothing, sequence_id=7)
        assert forgotten.get_response().parameters["state_reset"].bool_param
        for how in ({}, {"sequence_id": 7}):
            with refused("INVALID_ARGUMENT", "the policy is recurrent: send one observation"):
                decided(client, np.concatenate([cue, cue]), **how)
        config = client.get_model_config("cue").config
        (part,) = config.sequence_batching.state
        assert (part.input_name, list(part.dims)) == ("state_0", [1])
        assert [t.name for t in client.get_model_metadata("cue").inputs] == ["observation"]


def test_roles_hold_for_it_too(
    start_service: Any, registry: PolicyRegistry, tmp_path: Path
) -> None:
    publish(registry, linear_model())
    (tmp_path / "tokens").write_text("act a-robot-may-act-with-this\n")
    address = start_service(inference_tokens=tmp_path / "tokens").address
    shown = {"authorization": "Bearer a-robot-may-act-with-this"}
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_ready()
        with refused("UNAUTHENTICATED", "ModelInfer needs a token"):
            client.infer("cartpole", [given(STATES)])
        assert client.infer("cartpole", [given(STATES)], headers=shown)
        with refused("PERMISSION_DENIED", "needs role admin"):
            client.load_model("cartpole", headers=shown)


def test_its_decisions_are_logged(
    start_service: Any, registry: PolicyRegistry, tmp_path: Path
) -> None:
    publish(registry, linear_model())
    service = start_service(inference_decision_log=tmp_path / "log")
    with triton.InferenceServerClient(service.address) as client:
        client.infer("cartpole", [given(STATES)], sequence_id="robot")
    assert service.stop() == 0
    (file,) = (tmp_path / "log").rglob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    assert [(row["session"], row["alias"]) for row in rows] == [("robot", "stable")] * 3


def test_reflection_describes_it_under_its_own_name(service: InferenceProcess) -> None:
    with grpc.insecure_channel(service.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        method = DescriptorPool(database).FindServiceByName(SERVICE).methods_by_name["ModelReady"]
        assert method.input_type.full_name == "inference.ModelReadyRequest"
        call = channel.unary_unary(
            f"/{SERVICE}/ModelReady",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        assert call(GetMessageClass(method.input_type)(name="cartpole")).ready


OURS, THEIRS = "from services.inference.oip import servicer", "import tritonclient.grpc as triton"


@pytest.mark.parametrize("imports", [(OURS, THEIRS), (THEIRS, OURS)], ids=["first", "last"])
def test_a_process_may_hold_the_client_beside_the_service(imports: tuple[str, str]) -> None:
    script = [
        *imports,
        "from services.common.server.reflection import reflection_tables",
        "reflection_tables([servicer.SERVICE], {servicer.SERVICE: servicer.description()})",
        "assert triton.service_pb2.DESCRIPTOR.package == servicer.description().package",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(script)], check=True)


def fields(message: Descriptor) -> dict[str, tuple[Any, ...]]:
    return {
        field.name: (field.number, field.type, field.is_repeated, field.message_type is None)
        for field in message.fields
    }


def messages(found: Any) -> Iterator[Descriptor]:
    for message in found:
        yield message
        yield from messages(message.nested_types)


def test_messages_are_those_of_tritons_client() -> None:
    files = (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
    theirs = {m.name: m for f in files for m in messages(f.message_types_by_name.values())}
    renamed = {
        "AllVersions": "All",
        "SequenceState": "State",
        "SequenceInitialState": "InitialState",
    }
    theirs |= {own: theirs[name] for own, name in renamed.items()}
    ours = inference_pb2.DESCRIPTOR
    for name, message in ours.message_types_by_name.items():
        assert fields(message).items() <= fields(theirs[name]).items(), name
    types = {value.name: value.number for value in ours.enum_types_by_name["DataType"].values}
    assert types == dict(model_config_pb2.DataType.items())
    methods = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    assert methods.keys() >= ours.services_by_name["GRPCInferenceService"].methods_by_name.keys()


def test_observations_of_parts_are_inputs_of_their_own(
    start_service: Any, registry: PolicyRegistry
) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from services.common.spec import DictSpace

    parts = {
        "pose": ObservationSpace(dtype="float32", shape=(2,)),
        "cell": ObservationSpace(dtype="int64", shape=()),
    }
    spec = CARTPOLE.model_copy(update={"observation": DictSpace(parts=parts)})
    nodes = [
        helper.make_node("Cast", ["observation.cell"], ["cell"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["cell", "axis"], ["column"]),
        helper.make_node("Mul", ["observation.pose", "column"], ["q_values"]),
        helper.make_node("ArgMax", ["q_values"], ["action"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "policy",
        [
            helper.make_tensor_value_info("observation.pose", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("observation.cell", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("action", TensorProto.INT64, ["batch"]),
        ],
        [numpy_helper.from_array(np.array([1]), "axis")],
    )
    opset = helper.make_opsetid("", 18)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    publish(registry, model.SerializeToString(), spec=spec)
    address = start_service().address
    pose, cell = np.array([[1, 2], [1, 2]], np.float32), np.array([[1], [-1]])

    with triton.InferenceServerClient(address) as client:
        inputs = [
            given(cell, "INT64", "observation.cell"),
            given(pose, name="observation.pose"),
        ]
        result = client.infer("cartpole", inputs)
        shapes = {t.name: [*t.shape] for t in client.get_model_metadata("cartpole").inputs}

    assert result.as_numpy("action").tolist() == [[1], [0]]
    assert shapes == {"observation.pose": [-1, 2], "observation.cell": [-1, 1]}
