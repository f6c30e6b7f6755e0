"""The index: what was read of every file, kept beside the fields, so that a file is read only once."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from musedeep.errors import UsageError
from musedeep.select.headers import read_header
from musedeep.select.images import measure_image

__all__ = ["Index"]

# Counts up when something else is read of a file, so that old indexes are read anew.
_FORMAT = 1
_THREADS = 8


class Index:
    """What is known of files: their keywords, and of IMAGE_FOV files what can be seen on them.

    Parameters
    ----------
    path : Path or None
        Where it is kept; None keeps it in memory only.
    """

    def __init__(self, path=None):
        self.path = path
        self._files = {}
        if path is not None and path.exists():
            try:
                data = json.loads(path.read_text())
                self._files = data["files"] if data["format"] == _FORMAT else {}
            except (ValueError, KeyError, TypeError):
                # It is only a memory of what the files say; without it they are read again.
                self._files = {}

    def __len__(self):
        return len(self._files)

    def items(self):
        """Iterate over (path, entry) in the order of the paths.

        An entry is a dict with ``header`` (of keywords), ``image`` (dict, where it is an IMAGE_FOV),
        ``gone`` (whether it is out of reach) and ``error`` (why it could not be read).
        """
        yield from sorted(self._files.items())

    def update(self, paths, progress=None):
        """Read files that are new or have changed, and forget those that are gone.

        A file whose folder is gone too lies, perhaps, on a disk that is not there today: it is remembered.

        Parameters
        ----------
        paths : list of Path
        progress : callable, optional
            Called with the number of files read and their total.

        Returns
        -------
        int
            Number of files that were read.
        """
        kept = {}
        for name, entry in self._files.items():
            there = Path(name).exists()
            if there or not Path(name).parent.exists():
                kept[name] = entry | {"gone": not there}
        self._files = kept
        wanted = {str(path) for path in paths} | {name for name in kept if not kept[name]["gone"]}
        stamps = {name: _stamp(name) for name in wanted}
        stale = sorted(n for n in wanted if self._files.get(n, {}).get("stamp") != stamps[n])
        # Headers lie on disks and servers that take their time, and many requests are answered at once.
        with ThreadPoolExecutor(_THREADS) as readers:
            for number, (name, entry) in enumerate(zip(stale, readers.map(_read, stale), strict=True), 1):
                self._files[name] = {"stamp": stamps[name], "gone": False} | entry
                if progress is not None:
                    progress(number, len(stale))
        return len(stale)

    def write(self):
        """Write the index to its place."""
        if self.path is None:
            return
        data = {"format": _FORMAT, "files": dict(self.items())}
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(data))
            temporary.replace(self.path)
        except OSError as error:
            raise UsageError(
                f"cannot write {self.path}: {error.strerror}; choose a folder that you may write"
            ) from error


def _stamp(name):
    status = Path(name).stat()
    return [status.st_size, status.st_mtime_ns]


def _read(name):
    path = Path(name)
    try:
        header = read_header(path)
        image = measure_image(path) if header.get("ESO PRO CATG") == "IMAGE_FOV" else None
    except (OSError, ValueError, EOFError) as error:
        return {"error": str(error)}
    return {"header": header} | ({"image": image} if image is not None else {})
