"""The supervisor's end of the fork server (``ntbnet.edge.forkserver``), and a service it has forked.

The fork server is started before anything else of a bridge, imports while node and memory are made, and
is replaced when it ends or does not answer: services live on without it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ntbnet.edge.forkserver import MAX_REQUEST_BYTES, READY, adopt_orphans

IMPORT_TIMEOUT_S = 15.0
ANSWER_TIMEOUT_S = 2.0
MODULE = "services.forkserver"
_ROOM = 512
"""Bytes for the command line of a service, which takes the place of the fork server's."""
_PIDFD_RETRY_S = 0.5


class ForkServer:
    """One fork server after the other; ``fork`` starts one when there is none.

    Args:
        name: of the bridge.
        stderr: file to append to.
    """

    def __init__(self, name: str, stderr: Path) -> None:
        self._name = name
        self._stderr = stderr
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_ready = False
        self._turn = asyncio.Lock()
        self.starts = 0

    def start(self) -> None:
        """Start one, unless there is one; returns at once, it imports meanwhile.

        Raises:
            OSError: it cannot be started.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        adopt_orphans()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", MODULE, "--control-fd", str(theirs.fileno())]
        command += ["--parent", str(os.getpid()), "--name", self._name, "--room", "." * _ROOM]
        try:
            with theirs, self._stderr.open("ab") as err:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=err,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env=child_environment(),
                )
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        self._control = ours
        self._is_ready = False
        self.starts += 1

    @property
    def pid(self) -> int:
        """Id of the process that was started last; 0 without one."""
        return 0 if self._process is None else self._process.pid

    async def fork(self, words: Sequence[str], stdout: int, stderr: int, lifeline: int) -> Forked:
        """A service, as a child of this process.

        Args:
            words: its module and arguments; the option that names the lifeline is added.
            stdout: descriptor, as the others; the caller closes its own.
            stderr: descriptor.
            lifeline: descriptor of the socket that tells each that the other lives.

        Raises:
            OSError: none can be had now. A fork server that does not answer is ended.
        """
        async with self._turn:
            self.start()
            try:
                async with asyncio.timeout(IMPORT_TIMEOUT_S):
                    await self._until_ready()
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    return await self._ask(words, (stdout, stderr, lifeline))
            except (TimeoutError, ConnectionError) as problem:
                self.close()
                raise OSError(f"the fork server does not answer: {problem!r}") from None
            except asyncio.CancelledError:
                self.close()  # its answer would be the next one's
                raise

    async def _until_ready(self) -> None:
        if not self._is_ready and await self._answer() != READY:
            raise ConnectionError("it ended; see its .err file")
        self._is_ready = True

    async def _ask(self, words: Sequence[str], descriptors: Sequence[int]) -> Forked:
        assert self._control is not None
        request = json.dumps([*words]).encode()
        if len(request) > MAX_REQUEST_BYTES:
            raise OSError(f"a command line of {len(request)} bytes: allowed are {MAX_REQUEST_BYTES}")
        socket.send_fds(self._control, [request], descriptors)
        answer = await self._answer()
        if not answer:
            raise ConnectionError("it ended")
        pid = int(answer)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return Forked(pid)

    async def _answer(self) -> bytes:
        assert self._control is not None
        return await asyncio.get_running_loop().sock_recv(self._control, 64)

    async def ended(self) -> None:
        """Until there is none."""
        if self._process is not None:
            await ended(self._process)

    def close(self) -> None:
        """End it; services that it forked live on."""
        control, self._control = self._control, None
        if control is not None:
            control.close()
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


class Forked:
    """A child process that somebody else forked for us; as far as it is needed, like ``Popen``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its wait status, negative for a signal; None while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        """Wait status; blocks until there is one."""
        status = self._wait(0)
        assert status is not None
        return status

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it; nothing happens once it was waited for."""
        if self.poll() is None:  # so its id is its own until the next wait, which is ours
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)


async def ended(process: Forked | subprocess.Popen[bytes]) -> int:
    """Wait status of a child process, noticed through a pidfd."""
    loop = asyncio.get_running_loop()
    while process.poll() is None:
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            break
        except OSError:  # no descriptor left: ask again later
            await asyncio.sleep(_PIDFD_RETRY_S)
            continue
        told = asyncio.Event()
        loop.add_reader(fd, told.set)
        try:
            await told.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        break
    return process.wait()


def child_environment() -> dict[str, str]:
    """Environment of a child: ours, with ``services`` importable when we run from a source tree."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root, "PYTHONSAFEPATH": "1"}
