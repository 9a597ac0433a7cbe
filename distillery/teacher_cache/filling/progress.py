"""The bar of a teacher pass: hours of audio, how many times as fast as it plays, time left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from tqdm import tqdm

if TYPE_CHECKING:
    Bar = tqdm[NoReturn]  # types know that it is generic, Python does not
else:
    Bar = tqdm

HOUR = 3600.0  # seconds
FORMAT = (
    "{desc}: {percentage:3.0f}%|{bar}| {heard} of {wanted} h of audio, {speed} x real time, "
    "{remaining} left"
)


class AudioBar(Bar):
    """A bar that counts hours of audio."""

    def __init__(self, seconds: float, what: str) -> None:
        """Show an empty bar.

        Args:
            seconds: of audio in all.
            what: stands in front.
        """
        super().__init__(total=seconds / HOUR, desc=what, bar_format=FORMAT)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the bar's format may name: tqdm's own, and the speed."""
        values = dict(super().format_dict)
        elapsed = values["elapsed"]
        rate = values["rate"] or (values["n"] / elapsed if elapsed else 0.0)  # hours a second
        return {
            **values,
            "heard": _clock(HOUR * values["n"]),
            "wanted": _clock(HOUR * values["total"]),
            "speed": f"{HOUR * rate:.1f}" if rate else "?",
        }

    def add_seconds(self, seconds: float) -> None:
        """Note that so much more audio is done.

        Differences of sums of floats may lie below 0 or above what is left.
        """
        most = float(self.total or 0) - self.n
        self.update(min(max(seconds, 0.0) / HOUR, most))


def _clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
