"""Each image installs what its own service needs, and runs as the user the manifests name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
IMAGES = {
    "trainer": "services/trainer",
    "inference": "services/inference",
    "feedback": "services/feedback",
    "app": "services/feedback/app",
}
BESIDE = {"inference": ["decisions", "traces"]}
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]


def dockerfile(name: str) -> str:
    return (ROOT / IMAGES[name] / "Dockerfile").read_text()


@pytest.mark.parametrize("name", IMAGES)
def test_installs_its_own_extra_pinned(name: str) -> None:
    text = dockerfile(name)
    extras = [name, *BESIDE.get(name, [])]
    assert f'pip install -c constraints.txt ./clients/python ".[{",".join(extras)}]"' in text
    assert {*extras} <= EXTRAS.keys()


@pytest.mark.parametrize("name", IMAGES)
def test_runs_its_module_as_an_ordinary_user(name: str) -> None:
    text = dockerfile(name)
    module = IMAGES[name].replace("/", ".")
    assert text.endswith(f'ENTRYPOINT ["python", "-m", "{module}"]\n')
    final = text[text.rindex("FROM ") :]
    assert "USER 10001:10001" in final
    assert final.index("USER") > final.index("RUN")


@pytest.mark.parametrize("name", IMAGES)
def test_copies_what_is_there(name: str) -> None:
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile(name), re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert "pyproject.toml" in sources
    assert all((ROOT / source).exists() for source in sources)


def test_only_the_trainer_gets_torch_and_only_the_app_streamlit() -> None:
    for package, owner in (("torch", "trainer"), ("streamlit", "app")):
        owners = [n for n in IMAGES if any(r.startswith(package) for r in EXTRAS[n])]
        assert owners == [owner]
