"""Which blocks of a cube are done."""

import json
import os
from pathlib import Path

__all__ = ["Ledger"]


class Ledger:
    """Which blocks are done, with the key of what went into them: one line of JSON each, appended and synced.

    A line that was cut by a crash does not parse and does not count. The last line of a block is the valid
    one.

    Parameters
    ----------
    path : path
        The ledger's file.
    """

    def __init__(self, path):
        self.path = Path(path)

    def read(self):
        """Records of all blocks by their number; dict of int to dict."""
        records = {}
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                try:
                    record = json.loads(line)
                    records[record["block"]] = record
                except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
                    continue
        return records

    def append(self, record):
        """Add the record of a finished block."""
        self._write([record])

    def forget(self, blocks):
        """Take back the records of blocks whose values are about to be replaced."""
        if blocks:
            self._write([{"block": block} for block in blocks])

    def _write(self, records):
        with self.path.open("ab") as file:
            # A torn last line must not swallow these.
            file.write(b"\n" + b"".join(json.dumps(record).encode() + b"\n" for record in records))
            file.flush()
            os.fsync(file.fileno())

    def clear(self):
        """Forget all blocks."""
        self.path.unlink(missing_ok=True)
