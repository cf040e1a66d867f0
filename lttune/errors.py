"""Every exception that lttune raises for a user to read.

    LttuneError               anything a user can mend; the command line prints it and exits with code 2
    ├── InputError            a file, key or value that the user gave is wrong
    │   ├── SpecError         in a search space or setting
    │   └── DataError         in an annotation, detection or image file
    ├── MissingExtraError     an optional package is not installed
    ├── StudyError            a study that exists already, does not exist, or is held by another process
    ├── CacheError            a cache file is damaged and could not be rebuilt
    ├── ClusterError          a Ray cluster is not there, refuses us, or cannot run what was submitted
    ├── WorkerLostError       one of the processes that train a run together is gone
    └── TrialError            one trial cannot go on; the search goes on without it
        ├── NonFiniteLossError   the loss became NaN or infinite
        └── AppliedConfigError   the live objects do not carry the values that were asked for

Messages say what was wrong, where, and what to do, in that order, and show the value. `assert` is for our own bugs.
"""

from collections.abc import Sequence
from difflib import get_close_matches


class LttuneError(Exception):
    """Base of every error that a user can mend."""


class InputError(LttuneError, ValueError):
    """A file, key or value that the user gave is wrong; a ValueError too, so that pydantic names the key it sits at."""


class SpecError(InputError):
    """A search space or a setting is wrong; the text holds one line per fault, each with file and key path."""


class DataError(InputError):
    """An annotation, detection or image file is wrong."""


class MissingExtraError(LttuneError):
    """An optional package is not installed; the text holds the command or guide that brings it."""


class StudyError(LttuneError):
    """A study exists already, does not exist, or is held by another process."""


class CacheError(LttuneError):
    """A cached file is damaged and could not be rebuilt."""


class ClusterError(LttuneError):
    """A Ray cluster does not answer, refuses the token, or cannot run what was submitted."""


class WorkerLostError(LttuneError):
    """One of the processes that train a run together is gone; from its last checkpoint the run can go on."""


class TrialError(LttuneError):
    """One trial cannot go on; it is recorded as failed with this reason and the search continues."""


class NonFiniteLossError(TrialError):
    """The training loss became NaN or infinite."""


class AppliedConfigError(TrialError):
    """A live object does not carry the value that the resolved configuration asks for."""


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """` Did you mean 'x'?` with the nearest known word, or the list of known words where none is near."""
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(known)}."
