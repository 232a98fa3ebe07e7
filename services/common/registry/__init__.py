"""The policy repository: published versions and the aliases that point at them."""

from services.common.registry.manifest import (
    AliasState,
    Evaluation,
    ObservationStatistics,
    PolicyManifest,
)
from services.common.registry.registry import PolicyRegistry, PublishedVersion

__all__ = [
    "AliasState",
    "Evaluation",
    "ObservationStatistics",
    "PolicyManifest",
    "PolicyRegistry",
    "PublishedVersion",
]
