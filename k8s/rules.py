"""House rules of the manifests, beyond what the schemas say.

Each rule is a function of all rendered objects that yields a line for each thing wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")
PREFIX = "TUTELAGE_"
# What the trainer takes to write checkpoints after its calls have ended (its CLOSING_S).
CLOSING_S = 8.0
_TAG = re.compile(r":(?P<tag>[\w][\w.-]*)$")


@dataclass(frozen=True)
class Manifests:
    """The objects of one kustomization, and the settings the services know."""

    objects: list[Object]
    settings: frozenset[str]

    def of_kind(self, *kinds: str) -> list[Object]:
        """Objects of these kinds, in order."""
        return [item for item in self.objects if item["kind"] in kinds]

    def has(self, kind: str, name: str) -> bool:
        """Whether there is an object of that kind and name."""
        return any(item["metadata"]["name"] == name for item in self.of_kind(kind))

    def workloads(self) -> list[tuple[str, Object]]:
        """Name and pod template of everything that runs pods."""
        return [(label(item), item["spec"]["template"]) for item in self.of_kind(*WORKLOADS)]

    def containers(self) -> Iterator[tuple[str, Object, Object]]:
        """Name, pod spec and container of everything that runs."""
        for name, template in self.workloads():
            spec = template["spec"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                yield f"{name}/{container['name']}", spec, container

    def selected(self, selector: Object) -> list[Object]:
        """Pod templates whose labels have all that the selector's matchLabels name."""
        return [
            template
            for _, template in self.workloads()
            if selector.items() <= template["metadata"].get("labels", {}).items()
        ]


Rule = Callable[[Manifests], Iterator[str]]


def label(item: Object) -> str:
    """`Deployment/trainer`."""
    return f"{item['kind']}/{item['metadata']['name']}"


def runs_without_privileges(manifests: Manifests) -> Iterator[str]:
    """Not root, no capabilities, no escalation, a read-only file system, default seccomp."""
    for name, pod, container in manifests.containers():
        merged = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
        if merged.get("runAsNonRoot") is not True or not merged.get("runAsUser"):
            yield f"{name}: must set runAsNonRoot and a runAsUser other than 0"
        if merged.get("readOnlyRootFilesystem") is not True:
            yield f"{name}: must set readOnlyRootFilesystem"
        if merged.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: must forbid allowPrivilegeEscalation"
        if "ALL" not in merged.get("capabilities", {}).get("drop", []):
            yield f"{name}: must drop ALL capabilities"
        if merged.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name}: must use the seccomp profile RuntimeDefault"


def can_write_to_tmp(manifests: Manifests) -> Iterator[str]:
    """With a read-only root, Python still needs a /tmp."""
    for name, _, container in manifests.containers():
        mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        if "/tmp" not in mounts:
            yield f"{name}: must mount an emptyDir at /tmp"


def holds_no_api_token(manifests: Manifests) -> Iterator[str]:
    """No pod gets a token, or runs as the namespace's default account."""
    for name, template in manifests.workloads():
        spec = template["spec"]
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: must set automountServiceAccountToken: false"
        account = spec.get("serviceAccountName", "default")
        if not manifests.has("ServiceAccount", account):
            yield f"{name}: runs as service account {account!r}, which is not among the objects"


def says_what_it_needs(manifests: Manifests) -> Iterator[str]:
    """Requests of cpu and memory, and a limit of memory; one of cpu only throttles."""
    for name, _, container in manifests.containers():
        resources = container.get("resources", {})
        for part, key in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if key not in resources.get(part, {}):
                yield f"{name}: must set resources.{part}.{key}"


def is_probed(manifests: Manifests) -> Iterator[str]:
    """Startup, readiness and liveness, each against a port the container has."""
    for name, _, container in manifests.containers():
        ports = {p[key] for p in container.get("ports", []) for key in ("name", "containerPort")}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind)
            if probe is None:
                yield f"{name}: must have a {kind}"
                continue
            for how in ("grpc", "httpGet", "tcpSocket"):
                if how in probe and probe[how]["port"] not in ports:
                    yield f"{name}: {kind} asks port {probe[how]['port']}, which it has not"


def images_are_pinned(manifests: Manifests) -> Iterator[str]:
    """A tag that says which version, never `latest`."""
    for name, _, container in manifests.containers():
        found = _TAG.search(container["image"])
        if found is None or found["tag"] == "latest":
            yield f"{name}: image {container['image']!r} must have a tag other than latest"


def stops_in_time(manifests: Manifests) -> Iterator[str]:
    """Kubernetes waits longer than drain, grace and closing together take."""
    values = {k: v for item in manifests.of_kind("ConfigMap") for k, v in _data(item).items()}
    grace_s = float(values.get("TUTELAGE_GRACE_S", 5.0))
    extra_s = {
        "Deployment/inference": float(values.get("TUTELAGE_INFERENCE_DRAIN_S", 0.0)),
        "Deployment/trainer": CLOSING_S,
    }
    for name, template in manifests.workloads():
        needed_s = grace_s + extra_s.get(name, 0.0)
        given_s = template["spec"].get("terminationGracePeriodSeconds", 30)
        if given_s <= needed_s:
            yield (
                f"{name}: terminationGracePeriodSeconds is {given_s}, but stopping takes up "
                f"to {needed_s:g} s"
            )


def services_find_pods(manifests: Manifests) -> Iterator[str]:
    """Every Service selects pods, and names a port that they have."""
    for item in manifests.of_kind("Service"):
        selected = manifests.selected(item["spec"]["selector"])
        if not selected:
            yield f"{label(item)}: selects no pod"
        for template in selected:
            ports = {
                p[key]
                for container in template["spec"]["containers"]
                for p in container.get("ports", [])
                for key in ("name", "containerPort")
            }
            for port in item["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                if target not in ports:
                    yield f"{label(item)}: targetPort {target!r} is no port of its pods"


def selectors_find_pods(manifests: Manifests) -> Iterator[str]:
    """Network policies and disruption budgets are about pods that exist."""
    for item in manifests.of_kind("NetworkPolicy", "PodDisruptionBudget"):
        spec = item["spec"]
        selector = spec.get("podSelector", spec.get("selector", {})).get("matchLabels", {})
        if selector and not manifests.selected(selector):
            yield f"{label(item)}: selects no pod"


def references_exist(manifests: Manifests) -> Iterator[str]:
    """What pods, ingresses and autoscalers name is among the objects."""
    for name, template in manifests.workloads():
        for kind, other in _named(template["spec"]):
            if not manifests.has(kind, other):
                yield f"{name}: names {kind}/{other}, which is not among the objects"
    for item in manifests.of_kind("HorizontalPodAutoscaler"):
        target = item["spec"]["scaleTargetRef"]
        if not manifests.has(target["kind"], target["name"]):
            yield f"{label(item)}: scales {target['kind']}/{target['name']}, which is not there"
    for item in manifests.of_kind("Ingress"):
        for rule in item["spec"].get("rules", []):
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]["name"]
                if not manifests.has("Service", service):
                    yield f"{label(item)}: leads to Service/{service}, which is not there"


def settings_are_known(manifests: Manifests) -> Iterator[str]:
    """Every TUTELAGE_ variable is a setting of some service; a misspelt one changes nothing."""
    for item in manifests.of_kind("ConfigMap"):
        for key in _data(item):
            if key.startswith(PREFIX) and key not in manifests.settings:
                yield f"{label(item)}: {key} is no setting of any service"
    for name, _, container in manifests.containers():
        for variable in container.get("env", []):
            key = variable["name"]
            if key.startswith(PREFIX) and key not in manifests.settings:
                yield f"{name}: {key} is no setting of any service"


def _data(item: Object) -> dict[str, str]:
    return item.get("data") or {}


def _named(pod: Object) -> Iterator[tuple[str, str]]:
    """Kind and name of what a pod cannot start without."""
    for volume in pod.get("volumes", []):
        if "configMap" in volume and not volume["configMap"].get("optional"):
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume and not volume["secret"].get("optional"):
            yield "Secret", volume["secret"]["secretName"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in pod["containers"]:
        for source in container.get("envFrom", []):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source and not source[key].get("optional"):
                    yield kind, source[key]["name"]


RULES: tuple[Rule, ...] = (
    runs_without_privileges,
    can_write_to_tmp,
    holds_no_api_token,
    says_what_it_needs,
    is_probed,
    images_are_pinned,
    stops_in_time,
    services_find_pods,
    selectors_find_pods,
    references_exist,
    settings_are_known,
)


def violations(manifests: Manifests) -> list[str]:
    """What is wrong by any rule; empty when nothing is."""
    return [line for rule in RULES for line in rule(manifests)]
