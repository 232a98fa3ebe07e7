"""A replay as a Minari dataset, and a Minari dataset as a replay.

Minari keeps its datasets in ~/.minari/datasets, or where MINARI_DATASETS_PATH says. They are
written in Minari's own Parquet layout, with images as they are rather than as JPEG.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from services.common.errors import AlreadyExists, InvalidInput, NotFound, PreconditionFailed
from services.common.replay import Field, ReplaySchema, ReplayStore
from services.common.replay.dataset import Counts, all_stretches
from services.common.replay.schema import CLOSING, LEAD, OBSERVATION, Rows, Structure

PREFIX = "minari:"
EXTRA = ("log_probability", "policy_version")  # of a step; Minari has them as infos


@dataclass(frozen=True)
class MinariEpisodes:
    """A dataset that can enter a replay.

    rows: that its episodes take in all.
    """

    schema: ReplaySchema
    rows: int
    episodes: Any

    def stretches(self) -> Iterator[Rows]:
        """Its episodes, each as one fragment."""
        for number, episode in enumerate(self.episodes):
            yield _rows(self.schema, number, episode)


def export_minari(store: ReplayStore, dataset_id: str) -> Counts:
    """Write all steps of a replay as a local dataset such as "plant/expert-v0".

    The whole of it passes through memory. Stretches whose beginning or end the replay lacks
    are episodes of the dataset too.

    Raises:
        AlreadyExists: when there is a dataset of that id.
        InvalidInput: when Minari has another idea of ids.
        PreconditionFailed: without Minari, or when the replay holds nothing.
        ReplayUnavailable: when Redis does not answer.
    """
    minari, buffers = _minari()
    if dataset_id in minari.list_local_datasets():
        raise AlreadyExists(f"there is a Minari dataset {dataset_id!r}; choose another version")
    schema = store.schema
    parts = [part[part["kind"] != LEAD] for part in all_stretches(store)]
    if not parts:
        raise PreconditionFailed(f"replay {store.name} holds no steps to export")
    episodes = [_buffer(buffers.EpisodeBuffer, schema, i, part) for i, part in enumerate(parts)]
    try:
        with warnings.catch_warnings():
            # It asks for an author and a permalink, which concern who publishes the dataset.
            warnings.simplefilter("ignore", UserWarning)
            minari.create_dataset_from_buffers(
                dataset_id,
                episodes,
                observation_space=_space(schema.observation(lambda name: _box(schema.dtype[name]))),
                action_space=_action_space(schema, parts),
                data_format="parquet",
                description=f"replay {store.name}, exported by Tutelage",
                jpeg_encoding=False,
            )
    except ValueError as error:
        raise InvalidInput(f"Minari: {error}") from None
    return Counts(sum(len(part) - 1 for part in parts), len(parts))


def open_minari(dataset_id: str) -> MinariEpisodes:
    """A local dataset.

    Raises:
        NotFound: when there is none of that id.
        InvalidInput: when it observes or acts in spaces that a replay does not hold.
        PreconditionFailed: without Minari.
    """
    minari, _ = _minari()
    known = minari.list_local_datasets()
    if dataset_id not in known:
        raise NotFound(
            f"no local Minari dataset {dataset_id!r}; there are: {', '.join(known) or 'none'} "
            f"(get one with: minari download {dataset_id})"
        )
    dataset = minari.load_dataset(dataset_id)
    fields: list[Field] = []
    structure = _structure(dataset.observation_space, OBSERVATION, fields)
    schema = ReplaySchema(tuple(fields), _action(dataset.action_space), structure)
    rows = int(dataset.total_steps + dataset.total_episodes)
    return MinariEpisodes(schema, rows, dataset.iterate_episodes())


def _minari() -> tuple[Any, Any]:
    try:
        import minari
        from minari import data_collector
    except ImportError:
        raise PreconditionFailed(
            "Minari datasets need Minari: pip install 'tutelage-platform[datasets]'"
        ) from None
    return minari, data_collector


def _buffer(kind: Any, schema: ReplaySchema, number: int, part: Rows) -> Any:
    steps = part[:-1]
    extras = {f.name: np.ascontiguousarray(part[f.name]) for f in schema.extras}
    return kind(
        id=number,
        observations=schema.observation(lambda name: np.ascontiguousarray(part[name])),
        actions=np.ascontiguousarray(steps["action"]),
        rewards=steps["reward"].tolist(),
        terminations=steps["terminated"].tolist(),
        truncations=steps["truncated"].tolist(),
        infos={name: part[name].tolist() for name in EXTRA} | extras,
    )


def _space(nested: Any) -> gym.spaces.Space[Any]:
    """Spaces in dicts and tuples as one space."""
    match nested:
        case dict():
            return gym.spaces.Dict({key: _space(part) for key, part in nested.items()})
        case tuple():
            return gym.spaces.Tuple([_space(part) for part in nested])
    space: gym.spaces.Space[Any] = nested
    return space


def _box(column: np.dtype[Any]) -> gym.spaces.Space[Any]:
    element = column.base
    low, high = -np.inf, np.inf
    if element.kind == "b":
        element, low, high = np.dtype("int8"), 0, 1
    elif element.kind in "iu":
        low, high = np.iinfo(element).min, np.iinfo(element).max
    return gym.spaces.Box(low, high, column.shape, element.type)


def _action_space(schema: ReplaySchema, parts: list[Rows]) -> gym.spaces.Space[Any]:
    column = schema.dtype["action"]
    if column.shape or column.base.kind not in "iu":
        return _box(column)
    most = max(int(part["action"].max()) for part in parts)
    return gym.spaces.Discrete(most + 1, dtype=column.base.type)


def _structure(space: gym.Space[Any], name: str, fields: list[Field]) -> Structure:
    """The structure of a space; its leaves are put into `fields`."""
    match space:
        case gym.spaces.Dict():
            return {k: _structure(part, f"{name}.{k}", fields) for k, part in space.items()}
        case gym.spaces.Tuple():
            return tuple(_structure(p, f"{name}.{i}", fields) for i, p in enumerate(space))
        case gym.spaces.Box() | gym.spaces.Discrete() | gym.spaces.MultiDiscrete():
            fields.append(Field(name, str(space.dtype), space.shape or ()))
        case gym.spaces.MultiBinary():
            fields.append(Field(name, "int8", space.shape))
        case _:
            raise InvalidInput(f"{name} is a {space}; a replay holds numbers of a fixed shape")
    return None


def _action(space: gym.Space[Any]) -> Field:
    match space:
        case gym.spaces.Discrete():
            return Field("action", "int32")  # as this platform's own runs have it
        case gym.spaces.Box() | gym.spaces.MultiDiscrete() | gym.spaces.MultiBinary():
            return Field("action", str(space.dtype), space.shape)
    raise InvalidInput(f"actions are of {space}; a replay holds numbers of a fixed shape")


def _rows(schema: ReplaySchema, number: int, episode: Any) -> Rows:
    steps = len(episode.rewards)
    rows = schema.empty(steps + 1)
    schema.set_observation(rows, episode.observations)
    rows["action"][:steps] = episode.actions
    rows["reward"][:steps] = episode.rewards
    rows["terminated"][:steps] = episode.terminations
    rows["truncated"][:steps] = episode.truncations
    for name in EXTRA:
        if (values := _info(episode, name, steps)) is not None:
            rows[name][:steps] = values
    rows["episode_id"], rows["step"] = number, np.arange(steps + 1)
    rows["kind"][-1] = CLOSING
    return rows


def _info(episode: Any, name: str, steps: int) -> npt.NDArray[Any] | None:
    values = (episode.infos or {}).get(name)
    return None if values is None or len(values) < steps else np.asarray(values)[:steps]
