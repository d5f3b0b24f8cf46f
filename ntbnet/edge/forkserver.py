"""A process that has imported what services import, and forks one whenever it is asked to.

Imports are most of what a service takes to start. They are done once, here, before anything goes wrong:
a replacement then takes a fork. Any number can be asked for at once, nothing has to be refilled
behind a restart, and what is the same in all services is in memory once.

The service becomes a child of the supervisor, not of this process: it is forked by a process in between,
which ends at once, and the supervisor adopts orphans (``adopt_orphans``). So the supervisor waits for it as
for any child, it ends with the supervisor and outlives this process. It goes on only when all of that
is so. Nothing here has a thread, an event loop, a socket of ZeroMQ or a file of the bridge that a
service could inherit.

On the control socket (SOCK_SEQPACKET): ``READY`` from here once; then, for each request, the words of
a service's command line as JSON with three descriptors (its stdout, stderr and end of the lifeline), and
the answer, its process id or ``-errno``. The end of the socket is the end of this process.

Not ``multiprocessing.forkserver``: a process of that is a child of the server.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ntbnet.edge.process import die_with_parent

READY = b"READY"
MAX_REQUEST_BYTES = 16384
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36
"""Source: Linux uapi/linux/prctl.h."""
_ARGUMENTS_FIELD = 48
"""Of /proc/PID/stat, counted from 1: where the arguments begin; their end is the next one (proc(5))."""
_libc = ctypes.CDLL(None, use_errno=True)

Main = Callable[[Sequence[str]], int]


def adopt_orphans() -> None:
    """Have processes that this process's descendants leave behind become its children."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def serve(
    control: socket.socket, parent: int, load: Callable[[], Mapping[str, Main]], shown: Sequence[str]
) -> int:
    """Fork services until the control socket ends; returns in this process, and in each service.

    Args:
        control: this end of the control socket, blocking.
        parent: process id of the supervisor, whose end is ours.
        load: imports what runs a service, by its module; that gets its other words. Called once this process
            ends with its supervisor: imports take long on a busy machine.
        shown: words that this process is to be known by.

    Returns:
        Exit code.
    """
    die_with_parent()
    if os.getppid() != parent:
        return 1
    mains = load()
    _show(shown)
    gc.collect()
    gc.freeze()  # a collection in a service would copy every page that holds an object
    control.send(READY)
    while True:
        request, descriptors, _, _ = socket.recv_fds(control, MAX_REQUEST_BYTES, 3)
        if not request:
            return 0
        words = json.loads(request)
        answer = _fork(control, words, descriptors)
        if answer is None:
            return mains[words[0]]([*words[1:], "--notify-fd", str(descriptors[2])])
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(b"%d" % answer)


def _fork(control: socket.socket, words: Sequence[str], descriptors: Sequence[int]) -> int | None:
    """Process id of the service, or -errno; None in the service itself."""
    told, tell = os.pipe()
    wait, go = os.pipe()
    try:
        between = os.fork()
    except OSError as problem:
        for end in (told, tell, wait, go):
            os.close(end)
        return -(problem.errno or 1)
    if between == 0:
        try:
            pid = os.fork()
        except OSError as problem:
            pid = -(problem.errno or 1)
        if pid:
            os.write(tell, b"%d" % pid)
            os._exit(0)
        os.close(go)
        if not os.read(wait, 1):
            os._exit(1)
        for end in (told, tell, wait):
            os.close(end)
        control.close()
        _become(words, *descriptors)
        return None
    os.close(tell)
    os.close(wait)
    answer = os.read(told, 32)
    os.waitpid(between, 0)  # from here on the service is the supervisor's child
    if answer:
        os.write(go, b".")
    os.close(told)
    os.close(go)
    return int(answer or b"-1")


def _become(words: Sequence[str], stdout: int, stderr: int, lifeline: int) -> None:
    """A session, standard streams and a name of its own; ``lifeline`` keeps the number it came with."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((null, stdout, stderr)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.set_inheritable(lifeline, False)
    _show(words)


def _show(words: Sequence[str]) -> None:
    """Let ``ps`` tell the services apart: their words in place of our own, as far as those have room."""
    _libc.prctl(_PR_SET_NAME, words[0].rpartition(".")[2].encode()[:15], 0, 0, 0)
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    begin, end = (int(fields[_ARGUMENTS_FIELD - 3 + at]) for at in (0, 1))
    room = end - begin
    if begin == 0 or room < 2:  # not for us to see
        return
    text = b"\0".join(word.encode() for word in words)[: room - 1]
    ctypes.memmove(begin, text.ljust(room, b"\0"), room)
