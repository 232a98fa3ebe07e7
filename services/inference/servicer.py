"""PolicyService on the wire: converts, and leaves what to decide to the core."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidInput
from services.common.server import Service
from services.common.spec import Distribution, PolicySpec
from services.common.wire import encode_elements, encode_spec, timestamp
from services.inference.batching import Answer
from services.inference.core import STABLE, PolicyCore
from services.inference.decoding import decode_masks
from services.inference.versions import PolicyState
from tutelage.v1 import policy_pb2 as pb
from tutelage.v1 import policy_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE = pb.DESCRIPTOR.services_by_name["PolicyService"].full_name
_SAMPLED: dict[int, bool] = {
    pb.ACTION_SELECTION_UNSPECIFIED: False,
    pb.ACTION_SELECTION_GREEDY: False,
    pb.ACTION_SELECTION_SAMPLE: True,
}


class PolicyServicer(policy_pb2_grpc.PolicyServiceServicer):
    """The wire's view of a PolicyCore."""

    def __init__(self, core: PolicyCore) -> None:
        self._core = core

    async def Act(self, request: pb.ActRequest, context: Context) -> pb.ActResponse:
        """One decision."""
        core, name = self._core, (request.policy, request.version, request.alias)
        served = core.served(*name) or await core.find(*name)
        question = core.question(
            served.decoder.one(request),
            decode_masks(request.action_mask, 1, served.spec),
            sampled=_is_sampled(request.selection, served.spec),
            seed=request.seed if request.HasField("seed") else None,
            temperature=request.temperature if request.HasField("temperature") else None,
        )
        answer = await served.batcher.ask(question)
        decisions, row = answer.decisions, answer.start
        response = pb.ActResponse(
            action=_action(decisions.actions, row),
            version=served.manifest.version,
            digest=served.manifest.sha256,
            log_probability=decisions.log_probabilities[row],
            seed=0 if question.seeds is None else int(question.seeds[0]),
        )
        if request.include_probabilities:
            response.probabilities.extend(np.exp(decisions.table[row]).tolist())
            response.parameters.extend(decisions.parameters[row].tolist())
        return response

    async def ActBatch(self, request: pb.ActBatchRequest, context: Context) -> pb.ActBatchResponse:
        """Many decisions of one version."""
        core, name = self._core, (request.policy, request.version, request.alias)
        served = core.served(*name) or await core.find(*name)
        observations = served.decoder.many(request)
        question = core.question(
            observations,
            decode_masks(request.action_masks, len(observations), served.spec),
            sampled=_is_sampled(request.selection, served.spec),
            seed=request.seed if request.HasField("seed") else None,
            temperature=request.temperature if request.HasField("temperature") else None,
        )
        answer = await served.batcher.ask(question)
        rows = slice(answer.start, answer.start + question.rows)
        actions = answer.decisions.actions[rows]
        return pb.ActBatchResponse(
            actions=actions if isinstance(actions, list) else [],
            elements=None if isinstance(actions, list) else encode_elements(actions),
            version=served.manifest.version,
            digest=served.manifest.sha256,
            log_probabilities=answer.decisions.log_probabilities[rows],
            seeds=[] if question.seeds is None else question.seeds.tolist(),
            probabilities=_probabilities(answer, rows) if request.include_probabilities else [],
            parameters=answer.decisions.parameters[rows].ravel().tolist()
            if request.include_probabilities
            else [],
        )

    async def GetPolicy(
        self, request: pb.GetPolicyRequest, context: Context
    ) -> pb.GetPolicyResponse:
        """One policy."""
        return pb.GetPolicyResponse(policy=self._policy(self._core.policy(request.policy)))

    async def ListPolicies(
        self, request: pb.ListPoliciesRequest, context: Context
    ) -> pb.ListPoliciesResponse:
        """All policies."""
        return pb.ListPoliciesResponse(policies=map(self._policy, self._core.policies()))

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        """Promotion or rollback."""
        alias = request.alias or STABLE
        if request.WhichOneof("target") == "version":
            now, before = await self._core.set_alias(request.policy, alias, request.version)
        elif request.previous:
            now, before = await self._core.roll_back(request.policy, alias)
        else:
            raise InvalidInput("name a target: a version, or previous: true")
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


def policy_service(core: PolicyCore) -> Service:
    """PolicyService, ready to be added to a server."""

    def register(server: grpc.aio.Server) -> None:
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(PolicyServicer(core), server)

    return Service(SERVICE, register)


def _action(actions: list[int] | npt.NDArray[np.generic], row: int) -> pb.Action:
    if isinstance(actions, list):
        return pb.Action(discrete=actions[row])
    return pb.Action(elements=encode_elements(actions[row]))


def _is_sampled(selection: int, spec: PolicySpec) -> bool:
    sampled = _SAMPLED.get(selection)
    if sampled is None:
        raise InvalidInput(f"selection is {selection}, expected 1 (greedy) or 2 (sample)")
    if sampled and spec.distribution == Distribution.DETERMINISTIC:
        raise InvalidInput(
            "the policy is deterministic, so that there is nothing to sample; "
            "expected selection 1 (greedy)"
        )
    return sampled


def _probabilities(answer: Answer, rows: slice) -> list[float]:
    probabilities: list[float] = np.exp(answer.decisions.table[rows]).ravel().tolist()
    return probabilities
