from __future__ import annotations

import io

import av
import numpy as np
import pytest

from services.common import clips
from services.common.errors import InvalidInput


def moving_square(frames: int = 12, height: int = 40, width: int = 60) -> np.ndarray:
    film = np.full((frames, height, width, 3), 255, dtype=np.uint8)
    for t in range(frames):
        film[t, 10:20, t : t + 10] = (200, 30, 30)
    return film


def test_an_encoded_clip_holds_each_frame() -> None:
    info = clips.probe(clips.encode(moving_square(), 25))
    assert info == clips.ClipInfo(frames=12, width=60, height=40, frames_per_s=25, codec="h264")


def test_odd_sizes_become_even() -> None:
    info = clips.probe(clips.encode(moving_square(height=41, width=61), 30))
    assert (info.width, info.height) == (62, 42)


def test_a_single_frame_and_a_fractional_rate() -> None:
    info = clips.probe(clips.encode(moving_square(frames=1), 29.97))
    assert info.frames == 1
    assert clips.probe(clips.encode(moving_square(), 29.97)).frames_per_s == pytest.approx(29.97)


def test_pictures_survive_and_can_start_before_the_end_has_arrived() -> None:
    film = moving_square()
    clip = clips.encode(film, 25)
    assert clip.index(b"moov") < clip.index(b"mdat")
    with av.open(io.BytesIO(clip)) as container:
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert np.abs(decoded.astype(int) - film).mean() < 6


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((2, 8, 8), np.uint8),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((2, 8, 8, 3), np.float32),
    ],
)
def test_frames_of_another_kind_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        clips.encode(frames, 25)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(InvalidInput, match="frames per second"):
        clips.encode(moving_square(), rate)


def test_bytes_that_are_no_clip_are_refused() -> None:
    clip = clips.encode(moving_square(), 25)
    for broken in (b"", b"not a video", clip[:100], clip[: len(clip) // 3], clip[:-20]):
        with pytest.raises(InvalidInput, match=r"expected .*H\.264 MP4"):
            clips.probe(broken)


def test_a_long_clip_has_room_for_its_index() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2000, 16, 16, 3), dtype=np.uint8)
    assert clips.probe(clips.encode(noise, 50)).frames == 2000
