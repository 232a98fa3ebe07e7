"""Whether callers of one version can talk to another."""

from __future__ import annotations

from services.common.action_space import Discrete
from services.common.errors import ModelRejected
from services.common.registry import PolicyManifest
from services.common.spec import PolicySpec


def check_interface(candidate: PolicyManifest, served: PolicyManifest) -> None:
    """Refuse a version that callers of the one served could not talk to.

    Raises:
        ModelRejected: with both specs.
    """
    new, old = candidate.spec, served.spec
    if is_changed(new, old):
        raise ModelRejected(
            f"version {candidate.version} takes {_described(new)}, but version "
            f"{served.version}, which is served, takes {_described(old)}; "
            "publish it as a policy of another name"
        )


def is_changed(new: PolicySpec, old: PolicySpec) -> bool:
    """Whether callers would have to send or understand something else; names are for people."""
    both = [spec.action.model_dump(exclude={"names"}) for spec in (new, old)]
    # What a recurrent policy's state is like is nobody else's business; that it has one is.
    return (
        new.observation != old.observation
        or both[0] != both[1]
        or bool(new.state) != bool(old.state)
    )


def _described(spec: PolicySpec) -> str:
    taken = f"{spec.actions} actions" if isinstance(spec.action, Discrete) else str(spec.action)
    has = "has" if isinstance(spec.action, Discrete) else "acts in"
    remembers = " and a state" if spec.state else ""
    return f"{spec.observation}{remembers} and {has} {taken}"
