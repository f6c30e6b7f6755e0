"""The ``musedeep`` command: words, options and exit codes; one subcommand a stage."""

import atexit
import gc
import os
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import click

# These add their subcommands.
from musedeep.cli import align, reduction, select, simulation, stages, validate  # noqa: F401
from musedeep.cli.command import cli
from musedeep.errors import MuseDeepError
from musedeep.progress import Progress

__all__ = ["main"]


class _Terminated(KeyboardInterrupt):
    """A batch system asked the process to end."""


@contextmanager
def _signals_stop():
    """Let Ctrl-C and SIGTERM stop what goes on in a ``with`` block."""
    kinds = {signal.SIGTERM: _Terminated}
    # a shell lets what runs in the background ignore it
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        kinds[signal.SIGINT] = KeyboardInterrupt

    def stop(number, _):
        Progress.stopped_by = kinds[number]
        raise kinds[number]

    before = {number: signal.signal(number, stop) for number in kinds}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        Progress.stopped_by = None


def _choose_kernel_cache():
    # numba keeps compiled kernels beside the package or in the home folder; where neither may be written, as
    # on some compute nodes, it would refuse to start.
    places = (Path(__file__).parents[1] / "kernels", Path.home())
    if not any(os.access(place, os.W_OK) for place in places):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"musedeep-{os.getuid()}"))


def main(arguments=None):
    """Run the command line and leave the process with its exit code.

    Parameters
    ----------
    arguments : list of str, optional
        Those of the process by default.
    """
    sys.exit(_main(arguments))


def _main(arguments):
    _choose_kernel_cache()
    # The matrices are small; OpenBLAS would start a thread on every core, and they wait by spinning.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # A run makes few cycles and keeps many objects (headers, blocks): looking for them often is for nothing.
    gc.set_threshold(50_000, 20, 20)
    # At its end Python would look at every object once more: 0.3 s, only to free memory that is freed anyway.
    atexit.register(gc.freeze)
    with _signals_stop():
        try:
            code = cli.main(arguments, prog_name="musedeep", standalone_mode=False)
        except MuseDeepError as error:
            return _fail(error, error.exit_code)
        except click.Abort as stop:
            _fail("stopped; what is finished is kept, run the same command again to go on")
            return 143 if isinstance(stop.__cause__, _Terminated) else 130
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except OSError as error:
            return _fail(error, 5)
        return code if isinstance(code, int) else 0


def _fail(text, code=None):
    click.echo(f"musedeep: error: {text}", err=True)
    return code
