"""A platform for the length of a demo: on free ports, with data of its own."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from services.cli.launcher.platform_children import LauncherSettings, platform_children
from services.cli.launcher.supervisor import Supervisor
from services.cli.launcher.view import View
from services.common.errors import PreconditionFailed, Unavailable
from services.common.ports import LOOPBACK, free_port

STOP_GRACE_S = 8.0
MARKER = "demo-of-tutelage"
PAGES = "pages"


def settings_for(folder: Path) -> LauncherSettings:
    """Settings of a platform on free ports, with its data in `folder`."""
    inference, trainer, feedback = (f"{LOOPBACK}:{free_port()}" for _ in range(3))
    return LauncherSettings(
        data_dir=folder,
        redis_url=None,
        policy_repository=None,
        inference_address=inference,
        trainer_address=trainer,
        feedback_address=feedback,
        app_port=free_port(),
    )


def empty(folder: Path) -> None:
    """Remove what an earlier demo left.

    Raises:
        PreconditionFailed: when there is something else in the folder.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise PreconditionFailed(
            f"{folder} is not empty and no demo wrote it; name another folder with --folder"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


@asynccontextmanager
async def running(settings: LauncherSettings, view: View) -> AsyncIterator[None]:
    """Valkey, trainer, inference and feedback, up for as long as the block lasts.

    The pages are left out: nobody looks at them, and the teacher makes the calls they would.

    Raises:
        Unavailable: when one of them does not come up.
    """
    addresses = {
        "TUTELAGE_INFERENCE_ADDRESS": settings.inference_address,
        "TUTELAGE_TRAINER_ADDRESS": settings.trainer_address,
        "TUTELAGE_FEEDBACK_ADDRESS": settings.feedback_address,
        "TUTELAGE_POLICY_REPOSITORY": "",
    }
    children = [
        replace(child, environment={**child.environment, **addresses})
        for child in platform_children(settings)
        if child.name != PAGES
    ]
    supervisor = Supervisor(children, settings.data_dir / "logs", view)
    keeping = asyncio.create_task(supervisor.run())
    ready = asyncio.create_task(supervisor.all_ready())
    try:
        await asyncio.wait([keeping, ready], return_when=asyncio.FIRST_COMPLETED)
        if keeping.done():
            keeping.result()
            raise Unavailable("the platform ended before it was up")
        yield
    finally:
        for task in (keeping, ready):
            task.cancel()
        await asyncio.gather(keeping, ready, return_exceptions=True)
        await supervisor.stop(STOP_GRACE_S)
