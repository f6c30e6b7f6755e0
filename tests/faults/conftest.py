"""The command line in this process, and disks that are small or may not be written."""

import os
import signal
import subprocess

import pytest

from musedeep.cli import _main


@pytest.fixture
def musedeep(capsys, monkeypatch):
    """Runs a command line; its exit code, standard output and standard error."""
    # The command takes SIGTERM for itself.
    monkeypatch.setattr(signal, "signal", lambda *args: None)

    def run(*words):
        code = _main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def disk(tmp_path):
    """Makes a folder on a file system of its own; takes mount options such as ``size=2m`` or ``ro``."""
    mounted = []

    def mount(options):
        folder = tmp_path / "disk"
        if mounted:
            subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
            return folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        made = subprocess.run(command, capture_output=True, text=True) if os.getuid() == 0 else None
        if made is None or made.returncode:
            pytest.skip("only root may mount a file system here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
