"""Runs replicas, each under a small process of its own that outlives whoever started it. Standard library only.

Started as ``python -I -S shim.py``; JSON on its standard input names the replicas' folders and holds the secret variables,
which so lie in no file. It forks one shim for each, waits until each has started its command, and ends.

A shim
 * claims its replica: it links a file that it holds locked to the name ``claim``, which only one process can; as long as
   that lock is held, the replica runs. The kernel lets go of it with the shim, however that ends;
 * is the subreaper of all that its command starts, so that nothing gets away by forking or by a session of its own;
 * writes what the command prints to ``log``, each line after the time of its first byte;
 * passes SIGTERM on to the command, to it alone as a container's engine does; at SIGUSR1, and as many seconds after SIGTERM as
   the file ``grace`` says by then, it kills everything;
 * kills everything also when its replica's folder is deleted: nobody could find it any more;
 * when the command has ended, kills what that left behind, empties the pipe, and writes ``exit.json``. Then it ends.

Whoever listens to the replica's file in ``events`` hears of the start (it is written to) and of the end (it is closed).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
LONGEST_LINE = 2**20
"""Bytes after which a line is cut, for the sake of those who read it."""
PATIENCE = 10.0
"""Seconds to wait for killed processes to be gone."""

# What of the starter's environment a command gets, unless its own says otherwise. The rest may hold the starter's secrets.
PASSED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
# Without it what a Python program prints would arrive when it ends.
DEFAULTS = {"PYTHONUNBUFFERED": "1"}
MARK = "CUSTOMJOB_REPLICA"
"""Variable with the replica's folder: it tells a process of a replica from any other, also when its shim is gone."""


def main() -> None:
    order = json.load(sys.stdin)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    waiting = []
    for folder in order["folders"]:
        told, tell = os.pipe()
        if os.fork() == 0:
            try:
                os.close(told)
                os.setsid()
                _detach()
                prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
                Shim(folder, order["events"], order["secrets"]).run(tell)
            except OSError as error:
                # One that was removed meanwhile is no failure; once it has started, nobody listens any more.
                os.write(tell, b"." if error.errno == errno.ENOENT else f"{error}".encode())
            finally:
                os._exit(0)
        os.close(tell)
        waiting.append(told)
    answers = [os.read(told, 4096).decode() for told in waiting]
    failed = [answer or "a shim died" for answer in answers if answer != "."]
    if failed:
        sys.exit(failed[0])


def _detach() -> None:
    """Let go of the starter's standard streams: it waits for their end."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)


class Shim:
    """One replica's."""

    def __init__(self, folder: str, events: str, secrets: dict[str, str]) -> None:
        self.folder = folder
        self.events = events
        self.secrets = secrets
        self.wake, woken = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGIO):
            signal.signal(number, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        self.child = 0
        self.status: int | None = None
        self.kill_at: float | None = None

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def run(self, tell: int) -> None:
        with open(self.path("request.json"), "rb") as file:
            request = json.load(file)
        event = os.open(os.path.join(self.events, os.path.basename(self.folder)), os.O_WRONLY | os.O_CREAT, 0o600)
        if not self.claim():
            os.write(tell, b".")
            return
        self.notice_deletion()
        with open(self.path(".exit.json"), "w") as file:
            file.write(" " * 2000)  # room for the ending, should the disk be full by then
        log = Log(self.path("log"))
        out = self.start(request)
        with suppress(OSError):
            os.write(event, b".")
        os.write(tell, b".")
        os.close(tell)
        if out is not None:
            self.follow(out, log)
        self.finish()

    def claim(self) -> bool:
        mine = self.path(f".claim-{os.getpid()}")
        file = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)  # held until the end
        with open("/proc/sys/kernel/random/boot_id") as boot:
            text = json.dumps({"pid": os.getpid(), "boot": boot.read().strip(), "at": time.time()})
        os.write(file, text.encode())
        fcntl.lockf(file, fcntl.LOCK_EX)
        try:
            os.link(mine, self.path("claim"))
        except FileExistsError:
            return False
        finally:
            os.unlink(mine)
        return True

    def notice_deletion(self) -> None:
        """By SIGIO; not by inotify, of which a user has 128 handles, and there may be more shims."""
        with suppress(OSError):  # gone already, and whoever removes it looks for us; or a kernel without
            folder = os.open(self.folder, os.O_RDONLY)  # open until the end
            fcntl.fcntl(folder, fcntl.F_NOTIFY, fcntl.DN_DELETE | fcntl.DN_MULTISHOT)

    # -- the command ------------------------------------------------------------------------------------------------

    def start(self, request: dict[str, Any]) -> int | None:
        """The end of the pipe that the command's output comes from; None if it could not be started."""
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        env = {**DEFAULTS, **passed, **request["env"], **self.secrets, MARK: self.folder}
        if request["path"]:
            env["PATH"] = os.pathsep.join(filter(None, (request["path"], env.get("PATH", os.defpath))))
        self.oom_kills = oom_kills()
        out, end = os.pipe()
        os.set_blocking(out, False)
        command = request["argv"][0]
        try:
            os.chdir(request["cwd"])
            self.child = os.posix_spawn(
                find(command, env.get("PATH", os.defpath)),
                [text.encode("utf-8", "surrogateescape") for text in request["argv"]],
                {name.encode(): value.encode("utf-8", "surrogateescape") for name, value in env.items()},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, end, 1),
                    (os.POSIX_SPAWN_DUP2, end, 2),
                ],
                setpgroup=0,
                setsigmask=[],
                setsigdef=[n for n in signal.valid_signals() if n not in (signal.SIGKILL, signal.SIGSTOP)],
            )
        except (OSError, ValueError) as error:
            self.refused(command, error)
            return None
        os.close(end)
        return out

    def refused(self, command: str, error: OSError | ValueError) -> None:
        number = getattr(error, "errno", None)
        why = {
            errno.ENOENT: f"command {command!r} does not exist on this host, or its interpreter does not; the image is "
            "not run here: install the command or use another backend",
            errno.EACCES: f"command {command!r} may not be executed on this host: check its permissions",
            errno.ENOEXEC: f"command {command!r} is no program that this host can run: does its first line name an interpreter?",
            errno.E2BIG: f"command {command!r}: its arguments and environment are larger than this host takes",
        }.get(number or 0, f"command {command!r} cannot be started: {error}")
        self.ending = {"code": 127 if number == errno.ENOENT else 126, "reason": "StartError", "message": why}

    def follow(self, out: int, log: Log) -> None:
        """Until the command has ended and all that it wrote is in the log."""
        poll = select.poll()
        poll.register(out, select.POLLIN)
        poll.register(self.wake, select.POLLIN)
        open_ = True
        while self.status is None:
            left = None if self.kill_at is None else max(0.0, self.kill_at - time.monotonic())
            for source, _ in poll.poll(left and 1000 * left):
                if source == self.wake:
                    self.signalled(os.read(self.wake, 512))
                elif not log.take(out):
                    poll.unregister(out)
                    open_ = False
            if self.kill_at is not None and time.monotonic() >= self.kill_at:
                self.kill()
        self.kill_all()
        while open_ and log.take(out):
            pass
        code = os.waitstatus_to_exitcode(self.status)
        out_of_memory = code == -signal.SIGKILL and not self.killed and oom_kills() > self.oom_kills
        self.ending = {
            "code": code if code >= 0 else 128 - code,
            "reason": "Error" if code else "Completed",
            "message": "",
        }
        if out_of_memory:
            self.ending |= {"reason": "OOMKilled", "message": "killed while the kernel was out of memory"}

    killed = False
    oom_kills = -1
    ending: dict[str, Any]

    def signalled(self, numbers: bytes) -> None:
        if signal.SIGCHLD in numbers:
            self.reap()
        if self.status is not None:
            return
        if signal.SIGTERM in numbers:
            with suppress(PermissionError):
                os.kill(self.child, signal.SIGTERM)
            if self.kill_at is None:
                with suppress(OSError, ValueError), open(self.path("grace")) as file:
                    self.kill_at = time.monotonic() + float(file.read())
        if signal.SIGUSR1 in numbers or (signal.SIGIO in numbers and not os.path.exists(self.path("claim"))):
            self.kill()

    def kill(self) -> None:
        self.killed, self.kill_at = True, None
        self.kill_all()

    def reap(self) -> bool:
        """Whether any child is left. Orphans of the command are children too."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self.child:
                    self.status = status
        except ChildProcessError:
            return False

    def kill_all(self) -> None:
        """End every descendant; those of a killed one become children of this process."""
        end = time.monotonic() + PATIENCE
        while self.reap() and time.monotonic() < end:
            for pid in descendants(os.getpid()):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def finish(self) -> None:
        """A replica that was removed meanwhile has no folder any more; nobody asks how it ended."""
        new = self.path(".exit.json")
        try:
            with open(new, "r+") as file:
                json.dump({**self.ending, "phase": "exited", "at": time.time()}, file)
            os.link(new, self.path("exit.json"))
            os.unlink(new)
        except (FileNotFoundError, FileExistsError):
            pass


class Log:
    """Lines with times, for :mod:`.log` to read: ``<seconds> <text>``, or ``<seconds>!<notice>``."""

    def __init__(self, path: str) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.column = 0
        self.last = 0.0
        self.lost = 0

    def take(self, out: int) -> bool:
        """Move what the pipe holds into the file; False at the pipe's end, or when nothing is in it."""
        try:
            data = os.read(out, 65536)
        except BlockingIOError:
            return False
        if data:
            self.write(data)
        return bool(data)

    def write(self, data: bytes) -> None:
        if self.column > LONGEST_LINE and data[0] & 0xC0 != 0x80 and data[:1] != b"\n":
            data, self.column = b"\n" + data, 0
            self.put(self.stamped(data, fresh=False))
        else:
            self.put(self.stamped(data, fresh=self.column == 0))
        tail = len(data) - 1 - data.rfind(b"\n")
        self.column = tail if b"\n" in data else self.column + tail

    def stamped(self, data: bytes, *, fresh: bool) -> bytes:
        self.last = max(time.time(), self.last)
        stamp = b"%.6f " % self.last
        return (stamp if fresh else b"") + data[:-1].replace(b"\n", b"\n" + stamp) + data[-1:]

    def put(self, data: bytes) -> None:
        """A full disk costs output, and never the replica; what was lost is said as soon as there is room."""
        size = len(data)
        if self.lost:
            data = b"\n%.6f!%d bytes of output are missing: they could not be written\n" % (self.last, self.lost) + data
        try:
            while data:
                data = data[os.write(self.file, data) :]
            self.lost = 0
        except OSError:
            self.lost += size


def find(command: str, path: str) -> str:
    """Where a command is, by the PATH that it will have itself.

    :raises OSError: nowhere (ENOENT), or only where it may not be executed (EACCES).
    """
    if "/" in command:
        return command
    number = errno.ENOENT
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder or ".", command)
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            number = errno.EACCES
    raise OSError(number, os.strerror(number))


def descendants(root: int) -> list[int]:
    """Every process below this one."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    todo = [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def oom_kills() -> int:
    """How often the kernel has killed for memory since it booted; -1 where it does not say."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return -1


if __name__ == "__main__":
    main()
