"""One at a time at the aliases of a model: a lock where there is a place for it, else claims.

Beside a local database lies a file that is locked. A server has no lock and no compare-and-set: the
last writer of a tag or alias wins, and both writers believe they did. But a read gives all tags of
a model at once, and that is enough. Each process writes a tag of its own, its claim, and enters
once a read after that shows no other claim: of two, the one that wrote later sees the other's. Two
that see each other do not enter; the one whose claim sorts later withdraws it and waits.

What that cannot keep apart: whoever moves aliases without a claim, in MLflow's pages or by older
code; and a process that stands still for CLAIM_SECONDS between its last look and its write, for a
claim as old as that counts as a dead process's.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping

from distillery.errors import AliasConflict, TrackingError
from distillery.tracking.store import Tracking
from distillery.tracking.versions import is_local, registry_lock

CLAIM_TAG = "claim.champion."
"""Of a registered model, and behind it what no other claim is called; its value is who."""
CLAIM_SECONDS = 60.0
"""How long a claim of others may stand unchanged before its process counts as dead."""
LOOK_SECONDS = 0.1

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(tracking: Tracking, model_name: str, by: str) -> Iterator[Callable[[], None]]:
    """Let one process at a time move the aliases of a model that exists.

    Args:
        tracking: the connection.
        model_name: the registered model.
        by: who wants to, for those who wait.

    Yields:
        A check to make right before what must not be done by two: it raises AliasConflict where
        others took this process for dead, and so may be at work.
    """
    with registry_lock(tracking):
        if is_local(tracking):
            yield lambda: None
            return
        claim = _Claim(tracking, model_name, by)
        try:
            claim.enter()
            yield claim.check
        finally:
            claim.leave()


def claims(tracking: Tracking, model_name: str) -> dict[str, str]:
    """Return the claims that stand, and of each whose it is."""
    tags = tracking.client.get_registered_model(model_name).tags
    return {name: str(by) for name, by in tags.items() if name.startswith(CLAIM_TAG)}


class _Claim:
    """What one process does to enter, and to leave again."""

    def __init__(self, tracking: Tracking, model_name: str, by: str) -> None:
        self.tracking = tracking
        self.model_name = model_name
        self.by = by
        self.own: str | None = None
        """Name of the tag; None while there is none."""

    def enter(self) -> None:
        """Return once this claim is the only one."""
        seen: set[str] = set()
        since = time.monotonic()
        while True:
            found = claims(self.tracking, self.model_name)
            others = {name: by for name, by in found.items() if name != self.own}
            if self.own in found and not others:
                return
            if not others:
                self._make()
                continue
            if self.own in found and min(others) < str(self.own):
                self._drop(str(self.own))
                self.own = None
            if others.keys() != seen:
                seen, since = set(others), time.monotonic()
            elif time.monotonic() - since > CLAIM_SECONDS:
                self._bury(others)
            time.sleep(LOOK_SECONDS)

    def check(self) -> None:
        """Make sure that the claim still stands."""
        if self.own not in claims(self.tracking, self.model_name):
            raise AliasConflict(
                f"{self.model_name}: the claim of {self.by} on moving the champion is gone: it had "
                f"stood for more than {CLAIM_SECONDS:g} s, so others took its process for dead; "
                "nothing was moved, look with make champion, and decide again"
            )

    def leave(self) -> None:
        """Remove the claim; where MLflow does not answer, it stands until it counts as dead."""
        if self.own is None:
            return
        try:
            with self.tracking.explained():
                self._drop(self.own)
        except TrackingError as error:
            logger.warning("%s: a claim stays for %g s: %s", self.model_name, CLAIM_SECONDS, error)

    def _make(self) -> None:
        # Of a new name each time, so that others can tell it from the one of before.
        self.own = f"{CLAIM_TAG}{uuid.uuid4().hex}"
        self.tracking.client.set_registered_model_tag(self.model_name, self.own, self.by)

    def _drop(self, name: str) -> None:
        self.tracking.client.delete_registered_model_tag(self.model_name, name)

    def _bury(self, dead: Mapping[str, str]) -> None:
        for name, by in dead.items():
            logger.warning(
                "%s: %s was about to move the champion for %g s, and counts as dead",
                self.model_name,
                by,
                CLAIM_SECONDS,
            )
            self._drop(name)
