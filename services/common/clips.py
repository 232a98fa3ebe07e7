"""Short videos of behaviour: H.264 in MP4, which every browser plays without a plug-in."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt

from services.common.errors import InvalidInput

CODEC = "h264"
PIXEL_FORMAT = "yuv420p"  # the one that all browsers decode
# Quick to encode rather than small: at this quality a second takes some 20 kB either way.
OPTIONS = {"preset": "ultrafast", "crf": "23", "threads": "1"}
_RATE_DENOMINATOR = 1000  # frame rates such as 29.97 become exact fractions
# Room for the index at the front. Muxing fails when it is too small, and "faststart", which
# would measure it, rewrites a file on disk.
_INDEX_BYTES = 4096
_INDEX_BYTES_A_FRAME = 32


@dataclass(frozen=True)
class ClipInfo:
    """What a clip holds, counted by decoding it: frames, pixels, frames per second, codec."""

    frames: int
    width: int
    height: int
    frames_per_s: float
    codec: str


def encode(frames: npt.NDArray[np.uint8], frames_per_s: float) -> bytes:
    """Frames as an H.264 MP4 that starts to play before all of it has arrived.

    Width and height become even, as 4:2:0 colour needs, by repeating the last column or row.

    Args:
        frames: (T, height, width, 3) RGB, T ≥ 1.
        frames_per_s: positive and finite.

    Raises:
        InvalidInput: when frames or rate are not such.
    """
    _check_frames(frames, frames_per_s)
    even = _even(frames)
    rate = Fraction(frames_per_s).limit_denominator(_RATE_DENOMINATOR)
    file = io.BytesIO()
    index = _INDEX_BYTES + _INDEX_BYTES_A_FRAME * len(even)
    with av.open(file, "w", format="mp4", options={"moov_size": str(index)}) as container:
        stream = container.add_stream("libx264", rate=rate, options=OPTIONS)
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = PIXEL_FORMAT
        for image in even:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def probe(clip: bytes) -> ClipInfo:
    """Decode a clip to its end and say what it holds.

    Raises:
        InvalidInput: when it is not a video that can be decoded whole.
    """
    try:
        with av.open(io.BytesIO(clip), "r") as container:
            if not container.streams.video:
                raise InvalidInput("the clip has no video stream, expected H.264 MP4")
            stream = container.streams.video[0]
            frames = len([None for _ in container.decode(stream)])
            if frames < stream.frames:
                raise InvalidInput(
                    f"the clip breaks off after {frames} of {stream.frames} frames, "
                    "expected a whole H.264 MP4"
                )
            return ClipInfo(
                frames=frames,
                width=stream.width,
                height=stream.height,
                frames_per_s=float(stream.average_rate or 0),
                codec=stream.codec_context.name,
            )
    except (av.FFmpegError, EOFError) as error:
        raise InvalidInput(f"the clip cannot be decoded ({error}), expected H.264 MP4") from None


def _even(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    rows, columns = frames.shape[1] % 2, frames.shape[2] % 2
    if not rows and not columns:
        return frames  # padding would copy it all
    return np.pad(frames, ((0, 0), (0, rows), (0, columns), (0, 0)), "edge")


def _check_frames(frames: npt.NDArray[np.uint8], frames_per_s: float) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise InvalidInput(
            f"frames are {list(frames.shape)} of {frames.dtype}, "
            "expected [T ≥ 1, height, width, 3] of uint8"
        )
    if not 0 < frames_per_s <= 1000:
        raise InvalidInput(f"{frames_per_s} frames per second, expected over 0 and up to 1000")
