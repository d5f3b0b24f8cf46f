"""Every exception ntbnet raises; each says who is to blame and who catches it.

A bad access *on the bus* is never an exception: it is data (a counted drop, or a
completion with status UR) because hardware answers, it does not raise.  A caller's bug
inside one process is a plain ValueError or TypeError.
"""

from __future__ import annotations

import errno as _errno


class NtbnetError(Exception):
    """Base of every error below; the command line prints it as one line, without a traceback."""


class ConfigError(NtbnetError):
    """The user's configuration is wrong; names key, value and allowed range. Exit code 2."""


class SetupError(NtbnetError):
    """The machine lacks something (a permission, a device, a package, space). Exit code 1."""


class WireError(NtbnetError):
    """Bytes from another process are not a message of ours; names the field.

    Caught by the bus, which counts it and treats it as Surprise Down of that path.
    """


class PeerError(NtbnetError):
    """The other side broke the NTB protocol (impossible counts, wrong layout).

    Caught by the driver that was talking to it, which logs it and stays down.
    """


class WindowLost(NtbnetError):
    """A mapped window was revoked or its memory is gone; the holder must map it again."""


class KernelError(NtbnetError):
    """An operation of the emulated kernel API failed with an errno, as the kernel's own would.

    Attributes:
        errno: positive errno number; the kernel returns its negative.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{_errno.errorcode.get(code, code)}: {reason}")
        self.errno = code
