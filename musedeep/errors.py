"""The errors a user can meet, each with the exit code of the command line."""

__all__ = ["InputError", "MemoryLimitError", "MuseDeepError", "UsageError", "WorkError"]


class MuseDeepError(Exception):
    """Base of all errors raised on purpose; the text says what, where, what was found and what to do."""

    exit_code = 5


class UsageError(MuseDeepError, ValueError):
    """A setting or an argument is not allowed."""

    exit_code = 2


class MemoryLimitError(MuseDeepError):
    """The job cannot be done within the memory that was granted."""

    exit_code = 3


class InputError(MuseDeepError, ValueError):
    """An input file is broken, foreign, or does not agree with the others."""

    exit_code = 4


class WorkError(MuseDeepError):
    """Work failed and kept failing when it was tried again."""

    exit_code = 5
