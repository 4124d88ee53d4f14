"""Every error that cxrtl raises on purpose.

CxrtlError                  anything below; the command line prints its message and exits with its `exit_code`
├── ConfigError             the experiment file: unknown keys, wrong types, values that exclude each other
├── DataError               the images and labels
│   ├── ManifestError       a label table or folder that cannot be read as one
│   ├── SkippedError        more unusable files than `max_skipped` allows
│   ├── PreparedError       a prepared set that is missing, damaged or of another version
│   └── FoldsError          folds that cannot be made or used
│       ├── StaleFoldsError     folds made for other images, labels or patients
│       └── LeakageError        a patient or an identical image in two folds, or in an earlier stage
├── WeightsError            pretrained weights that are missing, altered or do not fit the backbone
├── RunError                the run folder
│   ├── ChangedError        the experiment, its data or its weights changed under the same run name
│   ├── LockedError         another process is writing to the run folder
│   ├── SupersededError     another try of a trial has taken its folder over
│   └── DamagedError        a file of the run is missing or does not match its recorded hash
├── PlanError               the run cannot start on this machine or cluster
├── TrialError              a fold failed in a way that another try cannot mend
├── PredictionsError        missing, duplicate or malformed out-of-fold predictions
└── Interrupted             stopped by the user; what is finished is kept (exit code 130)

A message names the argument, the value received and what to do. Rows are named by their hashed ids, never by
file name or patient number.
"""


def of_system(error: OSError) -> str:
    """What the system says of a file of ours, and what to do."""
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return f"{what}. What is finished is kept: mend this and run the same command."


def last_line(text: str, otherwise: str = "") -> str:
    """Of what a process or a library says of its end, the line where the reason mostly stands."""
    return (text.strip().splitlines() or [otherwise])[-1]


class CxrtlError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 2


class ConfigError(CxrtlError):
    """The experiment file is at fault; the message lists every fault at once."""


class DataError(CxrtlError):
    """Images or labels are at fault."""


class ManifestError(DataError):
    """A label table or image folder that cannot be read as one."""


class SkippedError(DataError):
    """More unusable files than `max_skipped` allows."""


class PreparedError(DataError):
    """A prepared set that is missing, damaged or of another version."""


class FoldsError(DataError):
    """Folds that cannot be made or used."""


class StaleFoldsError(FoldsError):
    """Folds made for other images, labels or patients."""


class LeakageError(FoldsError):
    """A patient or an identical image stands in two folds, or in a fold and an earlier stage of the transfer."""


class WeightsError(CxrtlError):
    """Pretrained weights that are missing, altered or do not fit the backbone."""


class RunError(CxrtlError):
    """The run folder is at fault."""


class ChangedError(RunError):
    """The experiment, its data or its weights changed under the same run name."""


class LockedError(RunError):
    """Another process is writing to the run folder."""


class SupersededError(RunError):
    """Another try of the trial has taken its folder over; this one may write nothing more."""


class DamagedError(RunError):
    """A file of the run is missing or does not match its recorded hash."""


class PlanError(CxrtlError):
    """The run cannot start on this machine or cluster."""


class TrialError(CxrtlError):
    """A fold failed in a way that another try cannot mend."""

    exit_code = 1


class PredictionsError(CxrtlError):
    """Missing, duplicate or malformed out-of-fold predictions."""


class Interrupted(CxrtlError):
    """Stopped by the user; what is finished is kept."""

    exit_code = 130
