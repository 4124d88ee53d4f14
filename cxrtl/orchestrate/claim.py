"""Which try of a trial may write its folder: the one that began last.

A node cut off from the cluster does not know that it counts as lost: its trials train on while others replace them,
and where the storage is not cut off with it, or once it is back, two would write one folder. Each try therefore puts a
token of its own into the folder before it reads the state it goes on from, and every file it writes there appears only
if that token still stands at that moment. A write that hangs in the network between the two can slip through. Weights
and predictions are the same to the bit whoever writes them, and all that counts is hashed: it costs time, at most a
fold's, and never a wrong number.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cxrtl import rundir, storage
from cxrtl.errors import DamagedError, SupersededError
from cxrtl.records import FoldResult

FILE = "owner.json"


@dataclass(frozen=True)
class Claim:
    """A try's right to write into `folder`, until another takes it or it is released."""

    folder: Path
    token: str

    @classmethod
    def take(cls, folder: Path) -> Claim:
        """Take the folder from whoever had it. From now on, each atomic write into it asks `check` first."""
        claim = cls(folder, secrets.token_hex(8))
        rundir.guards.pop(folder, None)  # of an earlier try in this process
        process = f"{os.getpid()} on {os.uname().nodename}"
        rundir.write_json(folder / FILE, {"token": claim.token, "process": process})
        rundir.guards[folder] = claim.check
        return claim

    def check(self) -> None:
        """Raises SupersededError where the claim no longer stands: another took the folder, or the trial is done."""
        storage.fetch(self.folder / FILE)
        try:
            owner = rundir.read_json(self.folder / FILE)
        except DamagedError:
            owner = {"token": "", "process": "a try that has finished"}
        if owner["token"] != self.token:
            trial = "/".join(self.folder.parts[-2:])
            raise SupersededError(f"{trial} was taken over by {owner['process']}: this try writes nothing more")

    def require_undone(self, result: FoldResult | None) -> None:
        """Raise SupersededError, and let the folder go, where an earlier try had come to a result after all."""
        if result:
            self.release()
            raise SupersededError(
                f"{result.arm}/fold{result.fold} was finished by an earlier try: nothing is left to do"
            )

    def release(self) -> None:
        """The trial is done: whoever still works on it is too late."""
        rundir.guards.pop(self.folder, None)
        storage.remove(self.folder / FILE)
