"""How far the work has come: a bar on a terminal, plain lines elsewhere."""

import sys
import threading
import time

__all__ = ["Progress", "duration"]


class Progress:
    """How far a stage has come: a bar on a terminal, a plain line every now and then elsewhere.

    Parameters
    ----------
    label : str
        What is going on, such as ``"combine"``.
    unit : str, optional
        What is counted.
    stream : file, optional
        Where to write; standard error by default.
    interval : float, optional
        Seconds between two plain lines.
    clock : callable, optional
        Returns seconds.
    shown : bool, optional
        Whether anything is written at all.
    watch : callable, optional
        Is called without arguments every now and then while the work goes on, whatever is shown.

    Attributes
    ----------
    stopped_by : type of exception or None
        Of the class: what the handler of a signal has raised. It is raised again while the work goes on,
        since Python drops what is raised during a callback of the garbage collector.
    """

    stopped_by = None

    def __init__(
        self,
        label,
        unit="items",
        *,
        stream=None,
        interval=10.0,
        clock=time.monotonic,
        shown=True,
        watch=None,
    ):
        self.label = label
        self.unit = unit
        self.done = 0
        self.total = None
        self.seconds = 0.0
        self.failures = []
        self._shown = shown
        self._watch = watch
        self._stream = stream or sys.stderr
        self._interval = interval
        self._clock = clock
        self._began = self._last_line = clock()
        self._bar = None
        self._open = False

    def start(self, total=None):
        """Begin to count anew, up to `total` where it is known."""
        self.close(quiet=True)
        self._open = True
        self.done, self.total, self.failures = 0, total, []
        self._began = self._last_line = self._clock()
        if self._shown and self._stream.isatty():
            self._bar = _make_bar(self._stream)
            self._row = self._bar.add_task(self.label, total=total, unit=self.unit, rate="")
            self._bar.start()

    def advance(self, count=1):
        """Count `count` more as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._row, advance=count, rate=self._rate())
        self.tick()

    def reach(self, done, total):
        """Count up to `done` of `total`; starts the count where that was not done yet."""
        if not self._open:
            self.start(total)
        self.advance(done - self.done)

    def tick(self):
        """Write a plain line if the last one is long ago; raises where a signal has stopped the work."""
        if Progress.stopped_by is not None and threading.current_thread() is threading.main_thread():
            raise Progress.stopped_by
        if self._watch is not None:
            self._watch()
        now = self._clock()
        if self._bar is None and now - self._last_line >= self._interval:
            self._last_line = now
            self._line(self._state())

    def note(self, text):
        """Write one line of text."""
        if self._bar is not None:
            self._bar.console.print(f"{self.label}: {text}", markup=False, highlight=False)
        else:
            self._line(text)

    def failure(self, text):
        """Write one line about something that failed, and remember it."""
        self.failures.append(text)
        self.note(text)

    def state(self):
        """How far it is: ``label``, ``unit``, ``done``, ``total`` (None where it is not known), ``seconds``,
        ``rate`` (per second), ``seconds_left`` (None before the first is done) and ``failures``."""
        seconds = self._clock() - self._began
        rate = self.done / seconds if seconds > 0 else 0.0
        left = (self.total - self.done) / rate if self.total is not None and rate else None
        return {
            "label": self.label,
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            "seconds": seconds,
            "rate": rate,
            "seconds_left": left,
            "failures": list(self.failures),
        }

    def close(self, *, quiet=False):
        """End the count, and tell what it came to."""
        if not self._open:
            return
        self._open = False
        self.seconds = self._clock() - self._began
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif not quiet and self.total == 0:
            self._line("nothing to do")
        elif not quiet and self.total is not None:
            self._line(f"{self.done} of {self.total} {self.unit} in {duration(self.seconds)}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _line(self, text):
        if not self._shown:
            return
        self._stream.write(f"{self.label}: {text}\n")
        self._stream.flush()

    def _rate(self):
        seconds = self._clock() - self._began
        return f"{self.done / seconds:.3g}/s" if self.done and seconds > 0 else ""

    def _state(self):
        if not self.total:
            return f"{self.done} {self.unit}, {self._rate()}".rstrip(", ")
        state = f"{self.done}/{self.total} {self.unit} ({100 * self.done // self.total} %)"
        if not self.done:
            return state
        left = (self._clock() - self._began) / self.done * (self.total - self.done)
        return f"{state}, {self._rate()}, {duration(left)} left"


def _make_bar(stream):
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description:>9}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]} {task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream),
    )


def duration(seconds):
    """A time in words, such as ``\"1 min 30 s\"``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
