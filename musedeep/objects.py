"""Paths on S3-compatible object storage, as far as the stores need them.

An object appears whole or not at all, and knows no rename. What is to appear together is uploaded with the
file that makes it count last.
"""

import os
import re
from functools import lru_cache
from pathlib import Path

from musedeep.errors import InputError, UsageError

__all__ = ["ObjectPath", "place_of"]

# No user, password or query: credentials and endpoint come from the environment alone.
_ADDRESS = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9][A-Za-z0-9._-]*)+")
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_UPLOADS = 8  # at a time


def place_of(path):
    """A `Path`, or an `ObjectPath` where the text is an address such as ``s3://bucket/name``."""
    if isinstance(path, ObjectPath):
        return path
    return ObjectPath(path) if str(path).startswith("s3:") else Path(path)


class ObjectPath:
    """A place on object storage.

    Parameters
    ----------
    address : str
        ``s3://bucket/name/...``. Endpoint and credentials are those of the environment: AWS_ENDPOINT_URL,
        AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_ALLOW_HTTP. They are read
        where they are needed, and never kept.

    Raises
    ------
    UsageError
        It is no such address.
    """

    def __init__(self, address):
        self._address = str(address).rstrip("/")
        if not _ADDRESS.fullmatch(self._address):
            # not told as it is: it may hold a password
            raise UsageError(
                "an address of object storage is s3://BUCKET/NAME with letters, digits, '.', '_' and '-'; "
                "credentials and endpoint belong into the environment (AWS_ACCESS_KEY_ID, ...)"
            )

    def __str__(self):
        return self._address

    def __repr__(self):
        return f"ObjectPath({self._address!r})"

    def __eq__(self, other):
        return isinstance(other, ObjectPath) and self._address == other._address

    def __hash__(self):
        return hash(self._address)

    def __truediv__(self, name):
        return ObjectPath(f"{self._address}/{name}")

    def joinpath(self, *names):
        """The place below, as of a `Path`."""
        return ObjectPath("/".join([self._address, *names]))

    @property
    def name(self):
        """The last part of the address."""
        return self._address.rpartition("/")[2]

    @property
    def _key(self):
        return self._address.split("/", 3)[3]

    @property
    def _bucket(self):
        return _bucket(self._address.split("/", 3)[2])

    def below(self):
        """What obstore has of the objects below this place."""
        return _bucket(self._address.split("/", 3)[2], self._key)

    def exists(self):
        """Whether there is an object of this name."""
        return self._ask("head", missing=None) is not None

    def size(self):
        """Bytes of the object; FileNotFoundError without one."""
        return self._ask("head")["size"]

    def read_bytes(self):
        """The whole object; FileNotFoundError without one."""
        return bytes(self._ask("get").bytes())

    def read_text(self):
        """The whole object as text."""
        return self.read_bytes().decode()

    def read_range(self, start, length):
        """Bytes of a part of the object."""
        return bytes(self._ask("get_range", start=start, length=length))

    def write_bytes(self, data):
        """Put an object, or replace it."""
        self._ask("put", data)

    def unlink(self, missing_ok=True):
        """Remove the object."""
        self._ask("delete", missing=None if missing_ok else ...)

    def folders(self):
        """Names of what lies below this place and has something below itself; list of str, sorted."""
        found = self._ask("list_with_delimiter", prefix=True)["common_prefixes"]
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def files(self):
        """Every object below this place: names relative to it, and sizes; dict of str to int."""
        start = len(self._key) + 1
        listed = self._ask("list", prefix=True)
        return {item["path"][start:]: item["size"] for batch in listed for item in batch}

    def remove_tree(self, last="zarr.json"):
        """Remove everything below this place, first what makes it count."""
        names = sorted(self.files(), key=lambda name: name != last)
        for name in names:
            (self / name).unlink()

    def upload(self, folder, last="zarr.json"):
        """Bring a local folder here, and see that all of it arrived.

        Parameters
        ----------
        folder : Path
        last : str
            The file that makes the others count: it is put when all of them are there, whole.
        """
        from concurrent.futures import ThreadPoolExecutor

        local = {str(f.relative_to(folder)): f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()}
        names = [name for name in local if name != last]
        with ThreadPoolExecutor(_UPLOADS) as pool:
            list(pool.map(lambda name: (self / name).write_bytes((folder / name).read_bytes()), names))
        there = self.files()
        wrong = [name for name in names if there.get(name) != local[name]]
        if wrong:
            raise InputError(f"{self / wrong[0]}: was not stored whole; run again")
        (self / last).write_bytes((folder / last).read_bytes())

    def _ask(self, what, *words, missing=..., prefix=False, **options):
        import obstore
        from obstore.exceptions import BaseError, NotFoundError

        key = f"{self._key}/" if prefix else self._key
        failure = None
        try:
            answer = getattr(obstore, what)(self._bucket, key, *words, **options)
            return list(answer) if what == "list" else answer
        except (NotFoundError, BaseError, FileNotFoundError) as error:
            failure = _without_secrets(str(error))
            absent = isinstance(error, NotFoundError | FileNotFoundError)
        if absent and missing is not ...:
            return missing
        if absent and what != "put":
            raise FileNotFoundError(str(self))
        raise InputError(
            f"{self}: the object storage refused or did not answer ({failure}); check the name, the network "
            "and the credentials in the environment"
        )


def _without_secrets(text):
    """What a server said, in one line, without credentials that it may repeat."""
    for name in _SECRETS:
        if os.environ.get(name):
            text = text.replace(os.environ[name], f"<{name}>")
    return re.sub(r"\s+", " ", text)[:400]


@lru_cache(maxsize=16)
def _bucket(name, prefix=None):
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise UsageError(
            f"obstore is needed for stores on object storage ({error}): pip install 'musedeep[s3]'"
        ) from error
    return S3Store(name, prefix=prefix)
