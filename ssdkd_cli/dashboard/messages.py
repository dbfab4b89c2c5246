"""What worker threads tell the app. They touch no widget."""

from __future__ import annotations

from textual.message import Message
from textual.notifications import SeverityLevel

from ssdkd_cli.watching.pictures import Picture
from ssdkd_cli.watching.view import RunView
from stages.run_directory import RunDirectory


class RunViewed(Message):
    """The run's state, newly read."""

    def __init__(self, view: RunView) -> None:
        super().__init__()
        self.view = view


class PicturesLoaded(Message):
    """Images of the buffer, or in words why there are none."""

    def __init__(self, pictures: tuple[Picture, ...], problem: str = "") -> None:
        super().__init__()
        self.pictures = pictures
        self.problem = problem


class OverlaysLoaded(Message):
    """The curves of the runs that the run on the screen is compared with."""

    def __init__(self, overlays: tuple[RunView, ...]) -> None:
        super().__init__()
        self.overlays = overlays


class NextRunFound(Message):
    """Another run of the folder is at work, and the one on the screen is not: it has ended there, or long before."""

    def __init__(self, run: RunDirectory, *, was_live: bool) -> None:
        super().__init__()
        self.run = run
        self.was_live = was_live


class RequestAnswered(Message):
    """What became of a request to the run.

    `severity` is that of the notification; `stands` says that the run has the request: it was neither refused nor lost.
    """

    def __init__(self, action: str, severity: SeverityLevel, text: str, *, stands: bool) -> None:
        super().__init__()
        self.action = action
        self.severity = severity
        self.text = text
        self.stands = stands
