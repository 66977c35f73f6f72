"""Video files to frames and back, through PyAV.

Frames are (3, H, W) uint8 RGB, as a player shows them: rotation and mirroring in the file's metadata are applied.
Times are seconds from the stream's start.
"""

from smalti.video.container import VIDEO_SUFFIXES, UnreadableVideoError, Video, as_rate
from smalti.video.reading import VideoInfo, probe, read_frames
from smalti.video.writing import WRITTEN_SUFFIXES, write_video

__all__ = [
    "VIDEO_SUFFIXES",
    "WRITTEN_SUFFIXES",
    "UnreadableVideoError",
    "Video",
    "VideoInfo",
    "as_rate",
    "probe",
    "read_frames",
    "write_video",
]
