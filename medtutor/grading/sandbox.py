"""Start a student's process in bubblewrap: no network, a read-only system, a small folder of its own, limits.

It sees Python with its packages, this package, and the checkers of the exercise: no chapters, no other submission.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from medtutor.grading.channel import receive

#: Audit number of the architecture; clone; calls that are refused: fork, vfork, unshare, memfd_create, memfd_secret,
#: shmget, io_uring_setup, setns.
CALLS = {"x86_64": (0xC000003E, 56, 57, 58, 272, 319, 447, 29, 425, 308),
         "aarch64": (0xC00000B7, 220, 97, 279, 447, 194, 425, 268)}
#: Of one submission: seconds in all and of one cell or call, MB of memory and of files.
LIMITS = {"seconds": 120, "cell": 30, "memory": 4096, "disk": 64}
#: Most seconds until a process is ready, which is not the student's time.
START = 100
OPTIONS = ("--unshare-all", "--unshare-user", "--uid", "1001", "--gid", "1001", "--cap-drop", "ALL", "--new-session",
           "--die-with-parent", "--proc", "/proc", "--chdir", "/tmp", "--symlink", "usr/bin", "/bin",
           "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64")


def system_calls() -> bytes:
    """A seccomp filter against what no other limit counts: new processes and namespaces, memory outside the process."""
    arch, clone, *refused = CALLS[platform.machine()]
    load, equal, at_least, any_of, end = 0x20, 0x15, 0x35, 0x45, 0x06
    no, unknown, allow = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x7FFF0000
    # Each step: what to do, with what, how many steps to skip if so and if not so.
    program = [(load, 4, 0, 0), (equal, arch, 1, 0), (end, no, 0, 0), (load, 0, 0, 0), (at_least, 2**30, 0, 1)]
    program += [(end, no, 0, 0), *(step for call in refused for step in ((equal, call, 0, 1), (end, no, 0, 0)))]
    # clone3 hides its flags from a filter, and C libraries fall back to clone. Only threads (0x10000) may start.
    program += [(equal, 435, 0, 1), (end, unknown, 0, 0), (equal, clone, 0, 3), (load, 16, 0, 0)]
    program += [(any_of, 0x10000, 1, 0), (end, no, 0, 0), (end, allow, 0, 0)]
    return b"".join(struct.pack("HBBI", code, if_so, if_not, value) for code, value, if_so, if_not in program)


@contextlib.contextmanager
def running(limits: dict[str, int], checks: Path, sandboxed: bool = True) -> Iterator[subprocess.Popen]:
    """A student's process, ready for requests on its stdin; killed with all that it started, at the end or in time.

    Raises RuntimeError, with what bubblewrap says, where it does not start.
    """
    package, most = Path(__file__).parents[1], str(limits["disk"] * 2**20)
    rlimits = {"AS": limits["memory"] * 2**20, "FSIZE": limits["disk"] * 2**20, "CPU": limits["seconds"], "NOFILE": 256,
               "CORE": 0}
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "USER": "student", "MPLBACKEND": "agg", "LANG": "C.UTF-8",
                   "OMP_NUM_THREADS": "1", "MEDTUTOR_LIVE": "0", "PYTHONPATH": "/package"}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as rules:
        rules.write(system_calls())
        rules.seek(0)
        box = ["bwrap", *OPTIONS, "--seccomp", str(rules.fileno()), "--size", most, "--tmpfs", "/tmp"]
        for path in ("/usr", "/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts", sys.base_prefix, sys.prefix):
            box += ["--ro-bind-try", path, path]
        box += ["--ro-bind", str(package), "/package/medtutor", "--ro-bind", str(checks), f"/tmp/{checks.name}",
                "--dev", "/dev", "--size", most, "--tmpfs", "/dev/shm", "--remount-ro", "/dev", "--remount-ro", "/"]
        if not sandboxed:
            box, environment = [], environment | {"HOME": folder, "PYTHONPATH": str(package.parent)}
            shutil.copy(checks, folder)
        process = subprocess.Popen([*box, sys.executable, "-m", "medtutor.grading.student", json.dumps(rlimits)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
                                   env=environment, pass_fds=[rules.fileno()], start_new_session=True)
        stop = functools.partial(os.killpg, process.pid, signal.SIGKILL)
        timer = threading.Timer(START, stop)
        timer.start()
        try:
            try:
                receive(process.stdout)
            except EOFError:
                said = process.stderr.read().decode(errors="replace").strip() or f"it took more than {START} s"
                raise RuntimeError(f"the sandbox did not start: {said.splitlines()[-1]}") from None
            timer.cancel()
            timer = threading.Timer(limits["seconds"], stop)
            timer.start()
            yield process
        finally:
            timer.cancel()
            stop()
            process.communicate()
