"""A fork is what a fresh interpreter is, to whoever started it."""

import os
import signal

import pytest
from harness.forked import Forked, forked
from tiny_run import python

ENDS = {
    "done": "print(sys.argv)",
    "no newline": "print('a', end=''); sys.stderr.write('b')",
    "status": "sys.exit(3)",
    "message": "sys.exit('why')",
    "error": "print('before'); 1 / 0",
    "signal": "print('lost'); os.kill(os.getpid(), 15)",
    "SIGINT": "signal.signal(2, signal.SIG_DFL); print('kept', flush=True); os.kill(os.getpid(), 2)",
    "KeyboardInterrupt": "os.kill(os.getpid(), 2); time.sleep(9)",
    "at exit": "atexit.register(print, 'last'); print('first')",
    "at once": "print('lost'); os._exit(4)",
    "thread": "threading.Thread(target=lambda: (time.sleep(0.2), print('waited for'))).start()",
    "environment": "print(os.environ['OMP_NUM_THREADS'], os.environ['HOME'], os.getcwd())",
    "handlers": "print([signal.getsignal(n) for n in (1, 13, 15)], signal.getsignal(2).__name__)",
    "main": "print(__name__, 'Forked' in globals(), sys.stdout.line_buffering, sys.stderr.line_buffering)",
}


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_like_a_fresh_interpreter(end: str) -> None:
    code = "import atexit, os, signal, sys, threading, time\n" + ENDS[end]
    fork, fresh = forked(code, "x", "y"), python(code, "x", "y")
    assert (fork.returncode, fork.stdout) == (fresh.returncode, fresh.stdout)
    assert fork.stderr.splitlines()[-1:] == fresh.stderr.splitlines()[-1:]


def test_several_at_once_in_groups_of_their_own() -> None:
    processes = [Forked("import time; print('began', flush=True); time.sleep(60)", own_group=True) for _ in range(2)]
    assert [os.getpgid(process.pid) for process in processes] == [process.pid for process in processes]
    assert processes[0].poll() is None
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
    assert all(process.communicate()[0] in ("", "began\n") for process in processes)
    assert [process.returncode for process in processes] == [-signal.SIGTERM] * 2


def test_an_ignored_signal_stays_ignored() -> None:
    code = "import os; os.kill(os.getpid(), 1); print('on')"
    assert forked(code).returncode == -signal.SIGHUP
    assert forked(code, ignored=signal.SIGHUP).stdout == "on\n"
