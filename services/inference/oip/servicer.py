"""GRPCInferenceService on the wire: policies described as models. ModelInfer is in `inferring`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version as version_of

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from services.common.errors import InvalidInput, NotFound, PreconditionFailed, TutelageError
from services.common.registry import PolicyManifest
from services.common.registry.triton import PLATFORM, model_configuration
from services.common.server.access import Role
from services.common.server.calls import BatchMethod, Call, MethodTable, StreamMethod, unary
from services.inference.acting import Acting
from services.inference.core import PolicyCore
from services.inference.oip.inferring import Inferring
from services.inference.oip.parameters import address
from services.inference.oip.streaming import InferStreaming
from services.inference.oip.tensors import Tensor, inputs_of, outputs_of
from services.inference.versions import PolicyState
from tutelage.oip.v2 import inference_pb2 as pb

PACKAGE, OURS = "inference", pb.DESCRIPTOR.package
SERVICE = f"{PACKAGE}.{pb.DESCRIPTOR.services_by_name['GRPCInferenceService'].name}"
EXTENSIONS = ("model_repository", "model_configuration", "parameters", "binary_tensor_data")


class OpenInferenceServicer:
    """What is asked of a PolicyCore call by call.

    Args:
        is_ready: whether calls should be sent here.
    """

    def __init__(self, core: PolicyCore, is_ready: Callable[[], bool]) -> None:
        self._core, self._is_ready = core, is_ready

    async def ServerLive(self, request: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:
        """It is, where this is answered."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, call: Call
    ) -> pb.ServerReadyResponse:
        """As health has it."""
        return pb.ServerReadyResponse(ready=self._is_ready())

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, call: Call
    ) -> pb.ServerMetadataResponse:
        """Who answers."""
        version = version_of("tutelage-platform")
        return pb.ServerMetadataResponse(name="tutelage", version=version, extensions=EXTENSIONS)

    async def ModelReady(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        """Whether a version would answer; what is not known here would not."""
        try:
            manifest = self._manifest(request)
        except TutelageError:
            return pb.ModelReadyResponse(ready=False)
        refused = self._core.load_error(manifest.policy, manifest.version)
        return pb.ModelReadyResponse(ready=not refused)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, call: Call
    ) -> pb.ModelMetadataResponse:
        """Versions and tensors."""
        manifest = self._manifest(request)
        state = self._core.policy(manifest.policy)
        return pb.ModelMetadataResponse(
            name=manifest.policy,
            versions=[str(n) for n in state.manifests if not self._core.load_error(state.name, n)],
            platform=PLATFORM,
            inputs=map(_described, inputs_of(manifest.spec)),
            outputs=map(_described, outputs_of(manifest.spec)),
        )

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, call: Call
    ) -> pb.ModelConfigResponse:
        """What stands in the policy's config.pbtxt."""
        manifest = self._manifest(request)
        # But for a critic's value, which is Act's to give.
        spec = manifest.spec.model_copy(update={"valued": False})
        text = model_configuration(manifest.policy, spec)
        return pb.ModelConfigResponse(config=text_format.Parse(text, pb.ModelConfig()))

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, call: Call
    ) -> pb.RepositoryIndexResponse:
        """All versions, loaded or not: one that is not is loaded when it is asked for."""
        _check_repository(request.repository_name)
        every = [model for state in self._core.policies() for model in self._versions(state)]
        models = [model for model in every if not (request.ready and model.reason)]
        return pb.RepositoryIndexResponse(models=models)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, call: Call
    ) -> pb.RepositoryModelLoadResponse:
        """A look at the policy's folder, without waiting for the next."""
        _check_repository(request.repository_name)
        if request.parameters:
            raise InvalidInput("a policy is served as it was published; leave the parameters out")
        state = await self._core.look(request.model_name)
        if not state.serving:
            raise NotFound(f"no alias of policy {state.name!r} points at a version that is served")
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        """Never."""
        _check_repository(request.repository_name)
        state = self._core.policy(request.model_name)
        raise PreconditionFailed(
            f"policy {state.name!r} is served while its aliases point at versions, and versions "
            "leave memory by themselves; move the aliases instead"
        )

    def _manifest(
        self, request: pb.ModelReadyRequest | pb.ModelMetadataRequest | pb.ModelConfigRequest
    ) -> PolicyManifest:
        return self._core.manifest(request.name, *address(request.version))

    def _versions(self, state: PolicyState) -> Iterator[pb.ModelIndex]:
        for version in sorted({*state.manifests, *state.damaged}):
            refused = self._core.load_error(state.name, version)
            reason = state.damaged.get(version, "") or refused
            yield pb.ModelIndex(
                name=state.name,
                version=str(version),
                state="UNAVAILABLE" if reason else "READY",
                reason=reason,
            )


def _described(tensor: Tensor) -> pb.TensorMetadata:
    return pb.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=[-1, *tensor.shape])


def _check_repository(name: str) -> None:
    if name:
        raise InvalidInput(f"no repository {name[:99]!r}: there is one, without a name")


def description() -> FileDescriptorProto:
    """The protocol's file as its clients know it, in the package `inference`."""
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    text = text_format.MessageToString(file).replace(OURS, PACKAGE)
    return text_format.Parse(text, FileDescriptorProto())


ROLES: Mapping[str, Role | None] = {
    "ServerLive": None,
    "ServerReady": None,
    "ServerMetadata": "act",
    "ModelReady": "act",
    "ModelMetadata": "act",
    "ModelConfig": "act",
    "ModelInfer": "act",
    "ModelStreamInfer": "act",
    "RepositoryIndex": "act",
    "RepositoryModelLoad": "admin",
    "RepositoryModelUnload": "admin",
}
"""Who may call what, where tokens are asked for."""


def open_inference_service(
    core: PolicyCore, acting: Acting, is_ready: Callable[[], bool]
) -> MethodTable:
    """GRPCInferenceService, for any transport."""
    asked, inferring = OpenInferenceServicer(core, is_ready), Inferring(acting)
    streaming = InferStreaming(inferring.infer)
    return MethodTable(
        SERVICE,
        {
            "ServerLive": unary(pb.ServerLiveRequest, asked.ServerLive),
            "ServerReady": unary(pb.ServerReadyRequest, asked.ServerReady),
            "ServerMetadata": unary(pb.ServerMetadataRequest, asked.ServerMetadata),
            "ModelReady": unary(pb.ModelReadyRequest, asked.ModelReady),
            "ModelMetadata": unary(pb.ModelMetadataRequest, asked.ModelMetadata),
            "ModelConfig": unary(pb.ModelConfigRequest, asked.ModelConfig),
            "ModelInfer": BatchMethod(inferring.infer),
            "ModelStreamInfer": StreamMethod(streaming.infer, streaming.stop),
            "RepositoryIndex": unary(pb.RepositoryIndexRequest, asked.RepositoryIndex),
            "RepositoryModelLoad": unary(pb.RepositoryModelLoadRequest, asked.RepositoryModelLoad),
            "RepositoryModelUnload": unary(
                pb.RepositoryModelUnloadRequest, asked.RepositoryModelUnload
            ),
        },
        file=description(),
    )
