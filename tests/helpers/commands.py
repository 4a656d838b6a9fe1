"""The command line in this process: what `edgemem` does and says, without a start of Python.

That the installed command is this function is proven by the tests that start it.
"""

import io
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from edgemem.cli import main


def run_command(*words, cwd=None):
    """What `subprocess.run` gives for the installed command with captured text."""
    arguments = ["edgemem", *map(str, words)]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, chdir(cwd or Path.cwd()):
        patch.setattr(sys, "argv", arguments)
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return subprocess.CompletedProcess(arguments, ended.value.code or 0, *texts)
