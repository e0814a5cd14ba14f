"""The errors that actionfusion raises on purpose.

Every error names its subject (a file, a folder, a setting), says what is wrong with it and what to do about it, in
one line.  ``kind`` is the stable short name that manifests and ``predict --json`` carry.
"""

from __future__ import annotations

import errno
import re
from os import PathLike, fspath
from typing import ClassVar

# Control characters, separators of lines, marks that turn the direction of writing, and bytes that are no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return the text on one line, with what would steer a terminal as an escape such as ``\x1b``."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


# Also with one slash, which is left of an address that was taken for a path.
_PASSWORD = re.compile(r"(\w:/+[^/\s:@]*):[^/\s]*@")
_QUERY = re.compile(r"(\w:/+[^\s?]*\?)[^\s;,'\")]+")


def _without_secrets(text: str) -> str:
    """Leave the password and the query out of every address in a text."""
    return _QUERY.sub(r"\1***", _PASSWORD.sub(r"\1@", text))


class ActionFusionError(Exception):
    """An error that a person can act on.

    Args:
        subject: the file, folder, address or setting that is at fault.
        reason: what is wrong with it, as a clause without a full stop.
        remedy: what to do about it, as a clause without a full stop.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, subject: object, reason: str, remedy: str) -> None:
        named = fspath(subject) if isinstance(subject, PathLike) else str(subject)
        super().__init__(named, reason, remedy)
        self.subject = _without_secrets(named)
        self.reason = _without_secrets(reason)
        self.remedy = remedy

    def __str__(self) -> str:
        end = "" if self.remedy.endswith("?") else "."
        text = f"{self.subject}: {self.reason}; {self.remedy}{end}"
        return printable(re.sub(r"[\r\n]+", " ", text))


class VideoError(ActionFusionError):
    """A video file that gives no clip."""

    kind = "video"


class VideoMissing(VideoError, FileNotFoundError):
    """There is no file at the path."""

    kind = "missing"


class VideoUnreadable(VideoMissing):
    """What is at the path cannot be read now: it may not be, or its disk or server fails."""

    kind = "unreadable"

    @classmethod
    def because_of(cls, error: Exception, video: object, reason: str) -> VideoMissing:
        """Tell a fault of a disk or of rights from a path that leads nowhere."""
        nowhere = not isinstance(error, OSError) or error.errno in _NOWHERE
        return (VideoMissing if nowhere else cls)(video, reason, "check the path and your rights")


_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}


class NotAVideo(VideoError, ValueError):
    """The file is there, but no demuxer for moving pictures takes it."""

    kind = "not_a_video"


class NoVideoStream(VideoError, ValueError):
    """A media file without a video stream, such as a sound recording."""

    kind = "no_video_stream"


class VideoDamaged(VideoError, ValueError):
    """The file is a video, but some of it cannot be decoded."""

    kind = "damaged"


class CodecRefused(VideoError, ValueError):
    """A video whose codec this reader is not to run."""

    kind = "codec"


class NoFrames(VideoError, ValueError):
    """A video stream that holds not one frame."""

    kind = "no_frames"


class VideoTooLarge(VideoError, ValueError):
    """A picture larger than the reader takes, which protects the machine's memory."""

    kind = "too_large"


class OutputError(ActionFusionError):
    """A file, a folder or a stream that the result cannot be written to."""

    kind = "output"


class SettingsError(ActionFusionError, ValueError):
    """A setting, or two settings together, that make no sense."""

    kind = "settings"


class WrongWord(SettingsError):
    """An unknown argument of the command line, or a value that it cannot have."""

    kind = "argument"


class DatasetError(ActionFusionError, ValueError):
    """A data set, manifest, split or store that is not what its layout says."""

    kind = "dataset"


class ClusterError(ActionFusionError, RuntimeError):
    """A cluster that cannot be reached, that is lost during the work, or whose machines are not set up alike."""

    kind = "cluster"


class RecipeMismatch(ActionFusionError, ValueError):
    """Clips of another flow recipe or another shape than the run was trained on."""

    kind = "recipe_mismatch"


class TrainingError(ActionFusionError, RuntimeError):
    """A training that cannot go on."""

    kind = "training"


class WeightsError(ActionFusionError, ValueError):
    """A file of weights that is missing, unsafe to read, or does not fit the network."""

    kind = "weights"


class RunFolderError(ActionFusionError, ValueError):
    """A folder that is not a complete run."""

    kind = "run_folder"


class RuntimeUnavailable(ActionFusionError, RuntimeError):
    """A runtime that is not installed, or that cannot do what is asked of it on this machine."""

    kind = "runtime"


class QuantizationRefused(ActionFusionError, RuntimeError):
    """A network whose predictions in 8 bits are too much worse than its own."""

    kind = "quantization"


class ExportError(ActionFusionError, ValueError):
    """An exported model that is not whole, or is of another version; or a place that cannot take one."""

    kind = "export"


class HubError(ActionFusionError):
    """A repository of the Hugging Face hub that cannot be read or written, or that is refused."""

    kind = "hub"
