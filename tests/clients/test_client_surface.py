"""What the client promises: its names, its errors, and what it does not need."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

import tutelage
from services.common import errors as service_errors
from services.common.server.errors import STATUS
from tutelage import errors

PUBLIC = [
    "ActStream",
    "AsyncActStream",
    "AsyncClient",
    "AsyncSession",
    "Client",
    "Credentials",
    "Decision",
    "Decisions",
    "FeedbackClient",
    "Session",
    "TrainingClient",
    "TutelageError",
    "errors",
]
ACT = ["act", "act_batch", "report", "policy", "policies"]
ACT += ["set_alias", "set_share", "promote", "rollback", "close"]


def test_the_public_names() -> None:
    assert sorted(tutelage.__all__) == PUBLIC
    assert all(hasattr(tutelage, name) for name in PUBLIC)


@pytest.mark.parametrize("name", ACT)
def test_the_two_clients_take_the_same_arguments(name: str) -> None:
    blocking = inspect.signature(getattr(tutelage.Client, name))
    waiting = inspect.signature(getattr(tutelage.AsyncClient, name))

    assert blocking == waiting


@pytest.mark.parametrize("name", ["__init__", "act", "report", "reset"])
def test_the_two_sessions_take_the_same_arguments(name: str) -> None:
    blocking = inspect.signature(getattr(tutelage.Session, name))
    waiting = inspect.signature(getattr(tutelage.AsyncSession, name))

    assert [*blocking.parameters] == [*waiting.parameters]


def test_the_two_streams_take_the_same_arguments() -> None:
    for name in ("act", "close"):
        blocking = inspect.signature(getattr(tutelage.ActStream, name))
        assert blocking == inspect.signature(getattr(tutelage.AsyncActStream, name))
    opened = [inspect.signature(kind.stream) for kind in (tutelage.Client, tutelage.AsyncClient)]
    assert opened[0].parameters == opened[1].parameters


def test_every_error_of_the_services_is_one_of_the_clients() -> None:
    assert all(
        getattr(errors, name) is getattr(service_errors, name) for name in service_errors.__all__
    )
    assert set(STATUS) <= {errors.TutelageError, *errors._BY_REASON.values()}


def test_importing_the_client_brings_nothing_heavy() -> None:
    heavy = {"torch", "onnxruntime", "onnx", "pydantic", "redis", "sqlalchemy", "streamlit"}
    program = f"import sys, tutelage; sys.exit(bool({heavy} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


class FailedCall(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str | None = None) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details

    def trailing_metadata(self) -> None:
        return None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.CANCELLED, errors.Cancelled),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Internal),
        (grpc.StatusCode.INTERNAL, errors.Internal),
        (grpc.StatusCode.UNKNOWN, errors.Internal),
        (grpc.StatusCode.NOT_FOUND, errors.NotFound),
    ],
)
def test_errors_without_a_word_from_the_service_go_by_status(
    code: grpc.StatusCode, kind: type[Exception]
) -> None:
    error = errors.from_rpc_error(FailedCall(code))

    assert type(error) is kind
    assert str(error) == code.name


def test_the_readme_examples_are_python() -> None:
    readme = (Path(tutelage.__file__).parent.parent / "README.md").read_text()
    blocks = [block.split("```")[0] for block in readme.split("```python\n")[1:]]

    assert len(blocks) >= 3
    for block in blocks:
        ast.parse(block)
