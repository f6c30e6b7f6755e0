"""Preset files (YAML) that say where a run computes: read, checked against fixed tables, and never executed.

A preset names one kind of cluster and gives values for it. Kinds, names of values and the forms of the values
all stand in this module: a file cannot bring in a class, a command or a line of a job script.
"""

import difflib
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from musedeep.errors import UsageError
from musedeep.kinds import memory_bytes

__all__ = ["BATCH_KINDS", "Preset", "read_preset", "seconds_of"]

BATCH_KINDS = ("slurm", "pbs", "lsf", "sge", "htcondor")
_LARGEST_FILE = 100_000

# What may stand in a job's directive: nothing that a shell, a submit file or a second line could live in.
_PLAIN = r"[\w.,:;=+/@%\[\]()&|* -]*"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_ADDRESS = r"(tls|tcp)://[\w.\[\]:-]+:\d+"
_CLOCK = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")

# Options of the batch systems that a preset may give: resources and where a job goes. Some others would run
# commands (a prologue, a shell, a task of its own).
_DIRECTIVES = {
    "slurm": r"--(qos|constraint|reservation|exclude|nodelist|exclusive|mem-per-cpu|gres|licenses|hint|nice|"
    r"requeue|no-requeue|export|mail-type|mail-user|clusters|comment|tmp|switches|wckey|signal|overcommit|"
    r"cpus-per-task|threads-per-core|ntasks-per-node|distribution)(=\S*)?",
    "pbs": r"-(V|l .+|W group_list=.+|p -?\d+|m \w+|M .+|r [yn]|j oe)",
    "lsf": r"-(R .+|G .+|app .+|sla .+|x|m .+|U .+|sp \d+|C \d+|v \d+|We .+|n .+|N|u .+)",
    "sge": r"-(V|l .+|pe .+|p -?\d+|R [yn]|r [yn]|m \w+|M .+|hard|soft|js \d+)",
    "htcondor": r"(getenv|requirements|rank|priority|nice_user|concurrency_limits|accounting_group|"
    r"accounting_group_user|max_retries|request_gpus|want_graceful_removal|\+\w+) = .+",
}


def seconds_of(text):
    """Seconds of a duration such as ``"04:00:00"``, ``"1-00:00:00"``, ``"90 m"`` or ``"3h 30m"``.

    Parameters
    ----------
    text : str

    Returns
    -------
    int

    Raises
    ------
    ValueError
        It is no duration, or it is zero.
    """
    clock = _CLOCK.fullmatch(text.strip())
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    else:
        parts = re.findall(r"(\d+)\s*([smhd])(?:in|ours?|ays?|ec)?\b\s*", text)
        if not parts or re.sub(r"\d+\s*[smhd](?:in|ours?|ays?|ec)?\b\s*", "", text).strip():
            raise ValueError(text)
        total = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if not total:
        raise ValueError(text)
    return total


@dataclass(frozen=True)
class _Value:
    """One value of a preset: `check` returns it normalised or raises ValueError; `words` describe it."""

    words: str
    check: object
    default: object = None


def _integer(low):
    def check(value):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError
        return value

    return check


def _matching(pattern):
    def check(value):
        if (
            not isinstance(value, str | int)
            or isinstance(value, bool)
            or not re.fullmatch(pattern, str(value))
        ):
            raise ValueError
        return str(value)

    return check


def _size(value):
    try:
        return memory_bytes(value)
    except UsageError as error:
        raise ValueError from error


def _duration(value):
    # YAML reads an unquoted 4:00:00 as one number of seconds, and 4:00 as minutes: nobody means that
    if not isinstance(value, str):
        raise ValueError
    return seconds_of(value)


def _file(value):
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


_WORD = _Value("a word (letters, digits and _ . : @ -)", _matching(r"[\w.:@-]*"), "")
_FOLDER = _Value(
    "the path of a folder, which may begin with an environment variable ($TMPDIR/dask)",
    _matching(r"(\$[A-Z][A-Z0-9_]*|\$\{[A-Z][A-Z0-9_]*\}|~)?[\w./@+-]*"),
    "",
)
_COUNT = _Value("a whole number from 1 on", _integer(1), 1)
_WORKERS = {
    "local_directory": _FOLDER,
    "numba_cache": _FOLDER,
}
_NETWORK = {
    "interface": _WORD,
    "scheduler_interface": _WORD,
}
_BATCH = {
    "cores": _COUNT,
    "processes": _COUNT,
    "memory": _Value("a size such as '18GB'", _size),
    "minimum_jobs": _COUNT,
    "maximum_jobs": _COUNT,
    "walltime": _Value("a duration in quotes, such as '04:00:00'", _duration),
    "lifetime": _Value("a duration in quotes, such as '3h 30m'", _duration),
    "lifetime_stagger": _Value("a duration in quotes, such as '20m'", _duration),
    "lost_worker_timeout": _Value("a duration in quotes, such as '1s'", _duration, 1),
    "death_timeout": _Value("a duration in quotes, such as '60s'", _duration, 60),
    "queue": _WORD,
    "account": _WORD,
    "directives": _Value("a list of options of the batch system", None, ()),
    **_WORKERS,
    **_NETWORK,
}
_RESOURCES = {"resource_spec": _Value("resources as the batch system writes them", _matching(_PLAIN), "")}
_KEYS = {
    "slurm": _BATCH,
    "pbs": _BATCH | _RESOURCES,
    "lsf": _BATCH,
    "sge": _BATCH | _RESOURCES,
    "htcondor": {
        name: value for name, value in _BATCH.items() if name not in ("queue", "account", "walltime")
    }
    | {"disk": _Value("a size such as '10GB'", _size, 10**10)},
    "local": {
        "workers": _Value("a whole number from 0 on (0: the number of cores)", _integer(0), 0),
        "threads": _COUNT,
        "memory": _Value("a size such as '4GB'", _size),
        **_WORKERS,
    },
    "tasks": {
        "threads": _COUNT,
        "memory": _Value("a size such as '4GB'", _size),
        "death_timeout": _Value("a duration in quotes, such as '60s'", _duration, 300),
        **_WORKERS,
        **_NETWORK,
    },
    "scheduler": {
        "address": _Value("tls://host:port or tcp://host:port", _matching(_ADDRESS), ""),
        "scheduler_file": _Value("the path of a file", _file, ""),
        "tls_ca_file": _Value("the path of a file", _file, ""),
        "tls_cert": _Value("the path of a file", _file, ""),
        "tls_key": _Value("the path of a file", _file, ""),
    },
}
_FILES = ("scheduler_file", "tls_ca_file", "tls_cert", "tls_key")


@dataclass(frozen=True)
class Preset:
    """A preset that was read and checked.

    Attributes
    ----------
    path : Path
        The file.
    kind : str
        ``"slurm"``, ``"pbs"``, ``"lsf"``, ``"sge"``, ``"htcondor"``, ``"local"``, ``"tasks"`` or
        ``"scheduler"``.
    values : dict
        Every value of the kind; sizes in bytes, durations in seconds, files absolute.
    """

    path: Path
    kind: str
    values: dict

    def __getitem__(self, name):
        return self.values[name]

    @property
    def threads(self):
        """Threads of each worker process; None where the file does not say."""
        if self.kind in BATCH_KINDS:
            return self["cores"] // self["processes"]
        return self.values.get("threads")

    @property
    def worker_bytes(self):
        """Memory of each worker process in bytes; None where the file does not say."""
        memory = self.values.get("memory")
        return memory // self.values.get("processes", 1) if memory else None

    @property
    def most_threads(self):
        """Threads of all workers when everything that was asked for is there; 0 where that is not known."""
        if self.kind in BATCH_KINDS:
            return self["cores"] * self["maximum_jobs"]
        return self.values.get("workers", 0) * (self.threads or 1)


def read_preset(path):
    """Read a preset file and check it.

    Parameters
    ----------
    path : path
        YAML.

    Returns
    -------
    Preset

    Raises
    ------
    UsageError
        The file cannot be read, names an unknown kind or value, or a value has not the form that is allowed.
    """
    import yaml

    path = Path(path).expanduser().absolute()
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UsageError(f"{path}: too large for a preset ({path.stat().st_size} bytes)")
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read the preset {path}: {error.strerror}; cluster/ has examples") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from error
    try:
        return _checked(path, data)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _checked(path, data):
    if not isinstance(data, dict) or data.get("kind") not in _KEYS:
        found = data.get("kind") if isinstance(data, dict) else data
        raise UsageError(f"kind = {found!r} is not allowed: give one of {', '.join(_KEYS)}")
    kind = data["kind"]
    known = _KEYS[kind]
    values = {name: value.default for name, value in known.items()}
    for name, value in data.items():
        if name == "kind":
            continue
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(f"{name!r} is not known for kind {kind}; {hint}Known are: {', '.join(known)}")
        values[name] = _directives(kind, value) if name == "directives" else _one(name, value, known[name])
    for name in _FILES:
        if values.get(name):
            values[name] = str(path.parent / Path(values[name]).expanduser())
    _check_together(kind, values)
    return Preset(path, kind, values)


def _one(name, value, allowed):
    try:
        return allowed.check(value)
    except ValueError:
        raise UsageError(f"{name} = {value!r} is not allowed: give {allowed.words}") from None


def _directives(kind, lines):
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UsageError(f"directives = {lines!r} is not allowed: give a list of texts")
    for line in lines:
        extra = '"' if kind in ("lsf", "htcondor") else ""
        plain = re.fullmatch(_PLAIN.replace("[\\w", f"[<>!{extra}\\w"), line)
        # one option a line: a second one would not be looked at
        if not plain or re.search(r"\s-[^\d]", line) or not re.fullmatch(_DIRECTIVES[kind], line):
            raise UsageError(
                f"directive {line!r} is not allowed for kind {kind}: only options that ask for resources "
                "are, in plain characters; for others make the cluster in Python and give md.run its client"
            )
    return tuple(lines)


def _check_together(kind, values):
    if kind == "scheduler":
        _check_scheduler(values)
        return
    if "cores" not in values:
        return
    if values["memory"] is None:
        raise UsageError("memory is missing: give what one job may use, such as memory: 18GB")
    if values["cores"] % values["processes"]:
        raise UsageError(
            f"cores = {values['cores']} cannot be shared evenly by processes = {values['processes']}"
        )
    if values["minimum_jobs"] > values["maximum_jobs"]:
        raise UsageError(
            f"minimum_jobs = {values['minimum_jobs']} is above maximum_jobs = {values['maximum_jobs']}"
        )
    walltime, lifetime = values.get("walltime"), values["lifetime"]
    stagger = values["lifetime_stagger"] or 0
    if walltime and lifetime and lifetime + stagger >= walltime:
        raise UsageError(
            f"lifetime and lifetime_stagger ({lifetime} s + {stagger} s) must end before the walltime "
            f"({walltime} s): a worker leaves by itself, before the batch system ends it"
        )
    if stagger and (lifetime is None or stagger >= lifetime):
        raise UsageError("lifetime_stagger must be below lifetime")


def _check_scheduler(values):
    if bool(values["address"]) == bool(values["scheduler_file"]):
        raise UsageError("give either address or scheduler_file")
    given = [name for name in ("tls_ca_file", "tls_cert", "tls_key") if values[name]]
    if given and len(given) < 3:
        raise UsageError("tls_ca_file, tls_cert and tls_key belong together: give all three")
    for name in given:
        file = Path(values[name])
        if not file.is_file():
            raise UsageError(f"{name}: there is no file {file}; cluster/certificates.sh makes one")
        if name == "tls_key" and stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise UsageError(
                f"{file} may be read by others: `chmod 600 {file}`, and make a new one if they did"
            )
