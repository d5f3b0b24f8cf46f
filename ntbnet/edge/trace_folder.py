"""Where the trace rings of one bridge lie: a folder in /dev/shm, and of the run before that was killed, its.

/dev/shm is memory on machines too whose /run is a disk, and everybody may make things there. So the folder
has a name that nobody knows before, and a symbolic link in the closed run folder says which one it is.
Services that became another user own the inner folder only: nobody but who made the outer one can put another
in its place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from xxhash import xxh3_64_hexdigest

from ntbnet.edge.run_root import is_own_folder

NOW, LAST = "trace", "trace.last"
"""Names of the links in the run folder."""
_SHM = Path("/dev/shm")  # noqa: S108 - mkdtemp makes names there
_RINGS = "rings"


class TraceFolder:
    """The folder of rings of one run folder.

    Args:
        run_path: run folder; only who made it may change what is in it.
        name: bridge name.

    Attributes:
        link: names the folder while there is one.
    """

    def __init__(self, run_path: Path, name: str) -> None:
        self.link, self._last_link = run_path / NOW, run_path / LAST
        self._prefix = f"ntbnet.{name}.{xxh3_64_hexdigest(os.fsencode(run_path))[:8]}."

    @property
    def rings(self) -> Path:
        """Where rings are; a path at which nothing is, when there is none."""
        return self._behind(self.link) or self.link

    @property
    def last_rings(self) -> Path:
        """Where those of the run before are, which did not end in order; else as ``rings``."""
        return self._behind(self._last_link) or self._last_link

    def _behind(self, link: Path) -> Path | None:
        try:
            rings = link.readlink()
        except OSError:
            return None
        is_ours = rings.parent.parent == _SHM and rings.parent.name.startswith(self._prefix)
        return rings if is_ours and rings.name == _RINGS else None

    def create(self) -> None:
        """Make it unless it is there; without room for it there is none, and services say so.

        One at a time: a folder that another maker has not linked yet is a stray to this one.
        """
        if self.rings.is_dir():
            return
        self._remove_strays()
        with suppress(OSError):
            outer = Path(tempfile.mkdtemp(prefix=self._prefix, suffix=".trace", dir=_SHM))
            try:
                (outer / _RINGS).mkdir(0o700)
                self.link.unlink(missing_ok=True)
                self.link.symlink_to(outer / _RINGS)
            except OSError:
                shutil.rmtree(outer, ignore_errors=True)

    def share(self, uid: int, gid: int) -> None:
        """Let that user write rings there. OSError: it may not be done."""
        rings = self._behind(self.link)
        if rings is None:
            return
        os.chown(rings, uid, gid, follow_symlinks=False)
        os.chown(rings.parent, -1, gid, follow_symlinks=False)
        rings.parent.chmod(0o710)

    def set_aside(self) -> None:
        """What is there is the run's before from now on, if anything was recorded; an older one goes.

        OSError: that cannot be removed.
        """
        rings = self._behind(self.link)
        if rings is None:
            return
        if any(rings.glob("*.coarse")) or any(rings.glob("*.full")):
            self._remove(self._last_link)
            self.link.rename(self._last_link)
        else:
            self._remove(self.link)

    def forget(self) -> None:
        """Remove it, and not that of the run before. OSError: it cannot be removed."""
        self._remove(self.link)

    def remove(self) -> None:
        """Remove all of it, that of the run before too. OSError: it cannot be removed."""
        self._remove(self.link)
        self._remove(self._last_link)
        self._remove_strays()

    def _remove(self, link: Path) -> None:
        rings = self._behind(link)
        if rings is not None:
            with suppress(FileNotFoundError):
                shutil.rmtree(rings.parent)
            link.unlink(missing_ok=True)

    def _remove_strays(self) -> None:
        """Folders that no link names: somebody removed that, or their maker was killed before he made it."""
        kept = {self.rings.parent, self.last_rings.parent}
        for outer in _SHM.glob(f"{self._prefix}*.trace"):
            if outer not in kept and is_own_folder(outer):
                shutil.rmtree(outer, ignore_errors=True)
