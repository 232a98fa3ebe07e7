"""What to paste to try the platform: addresses, a snippet, a grpcurl line, the pages."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from services.cli.launcher.platform_children import LauncherSettings, reachable
from services.cli.launcher.supervisor import Child


def addresses(children: Sequence[Child]) -> str:
    """A line for each process: its name and where it answers."""
    return "\n".join(f"  {child.name:<10} {child.address}" for child in children)


def things_to_paste(settings: LauncherSettings) -> str:
    """Three ways in, each to be copied as it stands. The numbers are a CartPole state."""
    inference = settings.inference_address
    return f"""
  Ask the policy from Python ({sys.executable}):

from tutelage import Client
with Client("{inference}") as client:
    print(client.act([0.0, 0.0, 0.0, 0.0], policy="cartpole"))

  or from a shell:

grpcurl -plaintext -d '{{"policy":"cartpole","observation":{{"values":[0,0,0,0]}}}}' \
{inference} tutelage.v1.PolicyService/Act

  and judge, watch and follow it in a browser:

http://{reachable(settings.host)}:{settings.app_port}
"""
