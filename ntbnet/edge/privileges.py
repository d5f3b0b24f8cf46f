"""What a service of root's gives up once its node and memory are open.

The supervisor stays root: it makes nodes, and starts services anew. A service needs no privilege after it
has opened the TUN and the memory: it goes on with descriptors, and with the folders that are its user's (of
sockets and epochs in the run folder, of trace rings in /dev/shm).

Source: Linux prctl(2): PR_SET_PDEATHSIG is cleared when credentials change, PR_SET_NO_NEW_PRIVS stays.
"""

from __future__ import annotations

import ctypes
import os
import pwd
from dataclasses import dataclass

from ntbnet.edge.process import die_with_parent
from ntbnet.errors import ConfigError, SetupError

_PR_SET_NO_NEW_PRIVS = 38
"""Source: Linux uapi/linux/prctl.h."""
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine that services become."""

    user: str
    uid: int
    gid: int


def account(user: str) -> Account | None:
    """The account that services become; None when they stay who they are: no user, or not root.

    Raises:
        ConfigError: this machine has no such user, or it is root.
    """
    if not user or os.geteuid() != 0:
        return None
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f'run.user = "{user}": must be a user of this machine, or empty') from None
    if found.pw_uid == 0:
        raise ConfigError(f'run.user = "{user}": must not be root; leave it empty to stay root')
    return Account(user, found.pw_uid, found.pw_gid)


def become(one: Account) -> None:
    """Be that user for good, without groups, capabilities or a way back; the parent's end still ends us.

    Raises:
        SetupError: the kernel refused, or the parent ended meanwhile.
    """
    parent = os.getppid()
    try:
        os.setgroups([])
        os.setresgid(one.gid, one.gid, one.gid)
        os.setresuid(one.uid, one.uid, one.uid)
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        die_with_parent()
    except OSError as problem:
        raise SetupError(f"cannot become user {one.user}: {problem.strerror}") from None
    if os.getresuid() != (one.uid,) * 3 or os.getresgid() != (one.gid,) * 3 or os.getgroups():
        raise SetupError(f"cannot become user {one.user}: the kernel did not change all ids")
    if os.getppid() != parent:
        raise SetupError("the supervisor ended")
