"""`tutelage presets`: what runs can be started from."""

from __future__ import annotations

import click


@click.command()
@click.argument("preset", required=False)
def presets(preset: str | None) -> None:
    """List the presets; or show every key of PRESET, each of which `--set` can replace.

    \b
    Examples:
      tutelage presets
      tutelage presets cartpole-dqn
      tutelage train cartpole-dqn --set dqn.learning_rate=0.0005
    """
    from services.trainer.config import load_preset, preset_description, to_yaml

    if preset is None:
        list_presets()
        return
    config = load_preset(preset)
    click.echo(f"# {preset_description(preset)}\n{to_yaml(config)}", nl=False)


def list_presets() -> None:
    """Print a line for each."""
    from services.cli.tables import print_table
    from services.trainer.config import (
        load_preset,
        preset_description,
        preset_names,
        total_env_steps,
    )

    rows = []
    for name in preset_names():
        config = load_preset(name)
        steps = total_env_steps(config)
        shown = f"{steps:,}" if steps else ""
        about = preset_description(name)
        rows.append((name, config.environment.id, config.algorithm, shown, about))
    print_table(("preset", "environment", "algorithm", "steps", "what for"), rows)
