"""The manifests pass, and the checker can fail: each rule refuses what it is there to refuse."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k8s import check as checker
from k8s.check import check, known_settings, kustomizations
from k8s.kubectl import RenderError, find_kubectl, render
from k8s.rules import Manifests, violations

Objects = list[dict[str, Any]]


@pytest.fixture(scope="module")
def kubectl() -> Path:
    return find_kubectl()


@pytest.fixture(scope="module")
def settings() -> frozenset[str]:
    return known_settings()


@pytest.fixture(scope="module")
def base(kubectl: Path) -> Objects:
    return render(checker.FOLDER / "base", kubectl)


@pytest.mark.parametrize("folder", kustomizations(), ids=lambda folder: folder.name)
def test_every_kustomization_passes(folder: Path, kubectl: Path, settings: frozenset[str]) -> None:
    objects = render(folder, kubectl)
    assert check(objects, settings) == []
    kinds = {item["kind"] for item in objects}
    assert {"Deployment", "StatefulSet", "Service", "NetworkPolicy", "ConfigMap"} <= kinds


def test_all_services_are_there(base: Objects) -> None:
    for name in ("trainer", "inference", "feedback", "app"):
        assert find(base, "Deployment", name)
        assert find(base, "Service", name)
    assert find(base, "StatefulSet", "redis")
    assert find(base, "Service", "inference")["spec"]["clusterIP"] == "None"


def find(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    return next(
        item
        for item in objects
        if item["kind"] == kind and item["metadata"]["name"].startswith(name)
    )


def pod(objects: Objects, name: str = "trainer") -> dict[str, Any]:
    found: dict[str, Any] = find(objects, "Deployment", name)["spec"]["template"]["spec"]
    return found


def container(objects: Objects, name: str = "trainer") -> dict[str, Any]:
    found: dict[str, Any] = pod(objects, name)["containers"][0]
    return found


BREAKAGES: list[tuple[str, Callable[[Objects], object]]] = [
    ("runAsNonRoot", lambda o: pod(o)["securityContext"].update(runAsUser=0)),
    ("runAsNonRoot", lambda o: pod(o)["securityContext"].pop("runAsNonRoot")),
    ("seccomp", lambda o: pod(o)["securityContext"].pop("seccompProfile")),
    (
        "readOnlyRootFilesystem",
        lambda o: container(o)["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    (
        "allowPrivilegeEscalation",
        lambda o: container(o)["securityContext"].pop("allowPrivilegeEscalation"),
    ),
    ("drop ALL", lambda o: container(o)["securityContext"].pop("capabilities")),
    ("/tmp", lambda o: container(o)["volumeMounts"].pop()),
    ("automountServiceAccountToken", lambda o: pod(o).pop("automountServiceAccountToken")),
    ("service account 'default'", lambda o: pod(o).pop("serviceAccountName")),
    ("resources.limits.memory", lambda o: container(o)["resources"].pop("limits")),
    ("must have a readinessProbe", lambda o: container(o).pop("readinessProbe")),
    ("asks port 1", lambda o: container(o)["livenessProbe"]["grpc"].update(port=1)),
    ("other than latest", lambda o: container(o).update(image="tutelage/trainer:latest")),
    ("other than latest", lambda o: container(o).update(image="registry:5000/trainer")),
    (
        "terminationGracePeriodSeconds is 15",
        lambda o: pod(o, "inference").update(terminationGracePeriodSeconds=15),
    ),
    (
        "Service/app: selects no pod",
        lambda o: find(o, "Service", "app")["spec"].update(selector={"app": "nobody"}),
    ),
    (
        "targetPort 'http'",
        lambda o: container(o, "app")["ports"][0].update(name="web"),
    ),
    (
        "PodDisruptionBudget/inference: selects no pod",
        lambda o: find(o, "PodDisruptionBudget", "inference")["spec"]["selector"].update(
            matchLabels={"app": "nobody"}
        ),
    ),
    (
        "names PersistentVolumeClaim/policies",
        lambda o: o.remove(find(o, "PersistentVolumeClaim", "policies")),
    ),
    ("names ConfigMap/redis-config", lambda o: o.remove(find(o, "ConfigMap", "redis-config"))),
    (
        "TUTELAGE_GRACE is no setting",
        lambda o: find(o, "ConfigMap", "tutelage-settings")["data"].update(TUTELAGE_GRACE="1"),
    ),
    (
        "TUTELAGE_REDIS is no setting",
        lambda o: container(o)["env"][0].update(name="TUTELAGE_REDIS"),
    ),
]


@pytest.mark.parametrize(("problem", "break_it"), BREAKAGES)
def test_what_breaks_a_house_rule_is_refused(
    problem: str,
    break_it: Callable[[Objects], object],
    base: Objects,
    settings: frozenset[str],
) -> None:
    broken = copy.deepcopy(base)
    break_it(broken)
    problems = violations(Manifests(broken, settings))
    assert any(problem in line for line in problems), problems


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("replica", 2, "Additional properties are not allowed ('replica' was unexpected)"),
        ("replicas", "two", "spec.replicas: 'two' is not of type"),
    ],
)
def test_what_the_schema_does_not_know_is_refused(
    field: str, value: object, problem: str, base: Objects, settings: frozenset[str]
) -> None:
    broken = copy.deepcopy(find(base, "Deployment", "trainer"))
    broken["spec"][field] = value
    assert problem in check([broken], settings)[0]


def test_a_kind_without_a_schema_is_refused(settings: frozenset[str]) -> None:
    unknown = {"apiVersion": "apps/v9", "kind": "Deployment", "metadata": {"name": "x"}}
    assert "Couldn't find schema" in check([unknown], settings)[0]


def test_dangling_ends_of_the_production_overlay_are_refused(
    kubectl: Path, settings: frozenset[str]
) -> None:
    objects = render(checker.FOLDER / "overlays" / "production", kubectl)
    find(objects, "HorizontalPodAutoscaler", "inference")["spec"]["scaleTargetRef"]["name"] = "x"
    rules = find(objects, "Ingress", "app")["spec"]["rules"]
    rules[0]["http"]["paths"][0]["backend"]["service"]["name"] = "y"
    problems = violations(Manifests(objects, settings))
    assert any("scales Deployment/x" in line for line in problems)
    assert any("leads to Service/y" in line for line in problems)


def test_what_kubectl_refuses_is_said(tmp_path: Path, kubectl: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [nowhere.yaml]\n")
    with pytest.raises(RenderError, match="nowhere"):
        render(tmp_path, kubectl)


def test_the_command_fails_for_a_broken_tree(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "k8s"
    shutil.copytree(checker.FOLDER, folder)
    path = folder / "base" / "trainer" / "deployment.yaml"
    path.write_text(path.read_text().replace("runAsNonRoot: true", "runAsNonRoot: false"))
    monkeypatch.setattr(checker, "FOLDER", folder)
    monkeypatch.setattr(checker, "kustomizations", lambda: [folder / "base"])
    assert checker.main() == 1
    assert "Deployment/trainer/trainer: must set runAsNonRoot" in capsys.readouterr().out
