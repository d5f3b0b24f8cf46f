"""Two hosts joined by a PCIe Non-Transparent Bridge, without the two boards.

From the bottom up:

- ``errors``, ``address``: what everything else is written in.
- ``config`` (with ``sections``, ``schema``, ``profile``): what the user wants, on which platform.
- ``wire``: the messages between processes.  ``log``: the events they write down.
- ``regs``: registers as tables, one for both sides of the link.
- ``devices``: the models; message and time in, effects out, no IO.
- ``edge``: everything that touches the operating system.
- ``app``: what people run.
"""

__version__ = "0.1.0"
