"""Environments that are seen as pictures. Importing this registers them with Gymnasium:

    CartPolePixels-v1     CartPole's rendered screen in place of its four numbers
    MinAtarBreakout-v1    MinAtar's games (Young & Tian 2019), and so Asterix, Freeway,
                          Seaquest, SpaceInvaders
    Atari-v5              a game of the Arcade Learning Environment; kwargs: {game: pong}

Observations are uint8, 0 to 255, with height and width as the last axes; `metadata` has
"action_names". What draws them is imported when one is made. They lie apart from the trainer
because the pages make them too.
"""

from __future__ import annotations

import gymnasium

CARTPOLE_STEPS = 500
MINATAR_STEPS = 10_000  # the games have no limit; a policy that never loses must still be judged
MINATAR_GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")


def _register() -> None:
    gymnasium.register(
        "CartPolePixels-v1",
        "services.pixels.cartpole:CartPolePixels",
        vector_entry_point="services.pixels.cartpole:VectorCartPolePixels",
        max_episode_steps=CARTPOLE_STEPS,
    )
    for game in MINATAR_GAMES:
        gymnasium.register(
            f"MinAtar{game.title().replace('_', '')}-v1",
            "services.pixels.minatar:MinAtar",
            kwargs={"game": game},
            max_episode_steps=MINATAR_STEPS,
        )
    gymnasium.register(
        "Atari-v5",
        "services.pixels.atari:Atari",
        vector_entry_point="services.pixels.atari:vector_atari",
    )


_register()
