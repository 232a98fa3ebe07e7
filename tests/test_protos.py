"""The committed stubs are those of protos/, and every part of the contract is explained."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parents[1]
PROTOS = sorted(path.relative_to(ROOT) for path in ROOT.glob("protos/tutelage/**/*.proto"))
COMMITTED = ROOT / "clients" / "python"
# Field numbers in descriptor.proto, of which a comment's path is made.
MESSAGE, ENUM, SERVICE, FIELD, METHOD = 4, 5, 6, 2, 2


def protoc(*arguments: str) -> None:
    """Run the compiler as `make proto` does: in the root, on all of protos/."""
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", "protos", *arguments, *map(str, PROTOS)],
        cwd=ROOT,
        check=True,
        env={"PATH": str(Path(sys.executable).parent)},  # where protoc's plugins are
    )


def recipe() -> list[str]:
    """The options of the Makefile's proto target."""
    makefile = (ROOT / "Makefile").read_text()
    target = re.search(r"^proto:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert target is not None
    return re.findall(r"--\S+=\S+", target[1])


def files(folder: Path) -> dict[str, str]:
    """Generated files by their path from a folder."""
    found = folder.glob("tutelage/**/*_pb2*")
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def test_the_committed_stubs_are_those_of_the_protos(tmp_path: Path) -> None:
    options = recipe()
    assert len(options) == 4
    protoc(*(option.replace("clients/python", str(tmp_path)) for option in options))
    fresh, committed = files(tmp_path), files(COMMITTED)
    assert len(fresh) == 4 * len(PROTOS)
    drifted = [name for name in fresh | committed if fresh.get(name) != committed.get(name)]
    assert not drifted, "run `make proto`"


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    path = tmp_path_factory.mktemp("protos") / "descriptors"
    protoc(f"--descriptor_set_out={path}", "--include_source_info")
    return list(FileDescriptorSet.FromString(path.read_bytes()).file)


def parts(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    """What must be explained, by its place in the descriptor."""
    assert not any(nested_types(message) for message in file.message_type)
    found: dict[tuple[int, ...], str] = {}
    for i, message in enumerate(file.message_type):
        found[MESSAGE, i] = message.name
        for j, field in enumerate(message.field):
            found[MESSAGE, i, FIELD, j] = f"{message.name}.{field.name}"
    for i, enum in enumerate(file.enum_type):
        found[ENUM, i] = enum.name
    for i, service in enumerate(file.service):
        found[SERVICE, i] = service.name
        for j, method in enumerate(service.method):
            found[SERVICE, i, METHOD, j] = f"{service.name}.{method.name}"
    return found


def nested_types(message: DescriptorProto) -> list[str]:
    """Types declared inside a message, which `parts` does not look into; a map's entry is none."""
    nested = [part.name for part in message.nested_type if not part.options.map_entry]
    return nested + [enum.name for enum in message.enum_type]


def test_every_message_field_and_rpc_is_explained(described: list[FileDescriptorProto]) -> None:
    silent = []
    for file in described:
        comments = {
            tuple(place.path): place.leading_comments or place.trailing_comments
            for place in file.source_code_info.location
        }
        silent += [name for path, name in parts(file).items() if not comments.get(path, "").strip()]
    assert silent == []
