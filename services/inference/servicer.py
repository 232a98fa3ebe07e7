"""PolicyService on the wire: converts, and leaves what to decide to the core.

Its hot path, Act and ActBatch, is in `acting`, open calls of Act in `streaming`, what came of
decisions in `reporting`.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.common.errors import InvalidInput
from services.common.server.access import Role
from services.common.server.calls import BatchMethod, Call, MethodTable, StreamMethod, unary
from services.common.wire import encode_spec, timestamp
from services.inference.acting import Acting
from services.inference.core import PolicyCore
from services.inference.reporting import Reporting
from services.inference.split import STABLE, check_share
from services.inference.streaming import Streaming
from services.inference.versions import PolicyState
from tutelage.v1 import policy_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["PolicyService"].full_name


class PolicyServicer:
    """What is asked of a PolicyCore call by call."""

    def __init__(self, core: PolicyCore) -> None:
        self._core = core

    async def GetPolicy(self, request: pb.GetPolicyRequest, call: Call) -> pb.GetPolicyResponse:
        """One policy."""
        return pb.GetPolicyResponse(policy=self._policy(self._core.policy(request.policy)))

    async def ListPolicies(
        self, request: pb.ListPoliciesRequest, call: Call
    ) -> pb.ListPoliciesResponse:
        """All policies."""
        return pb.ListPoliciesResponse(policies=map(self._policy, self._core.policies()))

    async def SetAlias(self, request: pb.SetAliasRequest, call: Call) -> pb.SetAliasResponse:
        """Promotion or rollback, and a share of the calls."""
        alias = request.alias or STABLE
        if request.HasField("share"):
            check_share(alias, request.share)
        response = await self._move(request, alias)
        if request.HasField("share"):
            await self._core.set_share(request.policy, alias, request.share)
        return response

    async def _move(self, request: pb.SetAliasRequest, alias: str) -> pb.SetAliasResponse:
        if request.WhichOneof("target") == "version":
            now, before = await self._core.set_alias(request.policy, alias, request.version)
        elif request.previous:
            now, before = await self._core.roll_back(request.policy, alias)
        elif request.HasField("share"):
            aliases = self._core.policy(request.policy).aliases
            now = before = aliases[alias].version if alias in aliases else 0
        else:
            raise InvalidInput("name a target, a version or previous: true, or a share")
        return pb.SetAliasResponse(version=now, previous_version=before)

    def _policy(self, state: PolicyState) -> pb.Policy:
        return pb.Policy(
            name=state.name,
            spec=encode_spec(state.spec) if state.spec else None,
            versions=[
                self._version(state, version)
                for version in sorted({*state.manifests, *state.damaged})
            ],
            aliases={alias: at.version for alias, at in state.aliases.items()},
            serving={alias: at.manifest.version for alias, at in state.serving.items()},
            shares={alias: at.share for alias, at in state.aliases.items() if at.share},
        )

    def _version(self, state: PolicyState, version: int) -> pb.PolicyVersion:
        manifest = state.manifests.get(version)
        if manifest is None:
            return pb.PolicyVersion(version=version, load_error=state.damaged[version])
        return pb.PolicyVersion(
            version=version,
            digest=manifest.sha256,
            algorithm=manifest.algorithm,
            run_id=manifest.run_id,
            env_steps=manifest.env_steps,
            mean_return=manifest.evaluation.mean_return,
            evaluation_episodes=manifest.evaluation.episodes,
            reward_model_version=manifest.reward_model_version,
            git_commit=manifest.git_commit,
            published_at=timestamp(manifest.published_at),
            loaded=self._core.is_loaded(state.name, version),
            load_error=self._core.load_error(state.name, version),
        )


ROLES: Mapping[str, Role] = {
    "Act": "act",
    "ActBatch": "act",
    "ActStream": "act",
    "ReportOutcome": "report",
    "GetPolicy": "act",
    "ListPolicies": "act",
    "SetAlias": "admin",
}
"""Who may call what, where tokens are asked for."""


def policy_service(core: PolicyCore, acting: Acting, reporting: Reporting) -> MethodTable:
    """PolicyService, for any transport. Made inside an event loop."""
    servicer, streaming = PolicyServicer(core), Streaming(acting.act)
    return MethodTable(
        SERVICE,
        {
            "Act": BatchMethod(acting.act),
            "ActBatch": BatchMethod(acting.act_batch),
            "ActStream": StreamMethod(streaming.act_stream, streaming.stop),
            "ReportOutcome": BatchMethod(reporting.report),
            "GetPolicy": unary(pb.GetPolicyRequest, servicer.GetPolicy),
            "ListPolicies": unary(pb.ListPoliciesRequest, servicer.ListPolicies),
            "SetAlias": unary(pb.SetAliasRequest, servicer.SetAlias),
        },
    )
