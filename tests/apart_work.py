"""Functions that tests have called in a process of their own."""

import logging
import os
import signal
import time

from musedeep.errors import InputError


def count(numbers, progress):
    progress.start(len(numbers))
    for _ in numbers:
        progress.advance()
    progress.note("counted")
    progress.close()
    logging.getLogger("musedeep.apart").info("a sum of %d", sum(numbers))
    print("what is printed is no message")
    return sum(numbers), os.getpid()


def refuse(path, progress):
    raise InputError(f"{path}: no")


def die(progress):
    os.kill(os.getpid(), signal.SIGKILL)


def take(megabytes, progress):
    return len(bytearray(megabytes << 20))


def sleep(marker, progress):
    marker.write_text(str(os.getpid()))
    time.sleep(600)
