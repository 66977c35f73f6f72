"""Reading and writing video files with PyAV.

Frames are (3, H, W) uint8 RGB, as a player shows them: the rotation and mirroring in the metadata of the file are applied.
Times are in seconds from the start of the video stream. Frame rates are in frames per second.
"""

from smalti.video.container import VIDEO_SUFFIXES, UnreadableVideoError, Video, normalize_frame_rate
from smalti.video.reading import VideoInfo, probe, read_frames
from smalti.video.writing import WRITABLE_SUFFIXES, write_video

__all__ = [
    "VIDEO_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "UnreadableVideoError",
    "Video",
    "VideoInfo",
    "normalize_frame_rate",
    "probe",
    "read_frames",
    "write_video",
]
