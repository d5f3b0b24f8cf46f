"""Who is asked: services that can answer."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from ntbnet.app.ask import able_to_answer
from ntbnet.edge.process import record_of
from ntbnet.edge.rundir import RunDir


def test_stopped_services_and_those_without_a_socket_are_not_asked(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", "lab")
    run.create()
    processes = {name: subprocess.Popen(["sleep", "60"]) for name in ("epc", "edma", "peer-ep")}
    try:
        for name, process in processes.items():
            record = record_of(process.pid)
            assert record is not None
            run.record_process(name, record)
        for name in ("epc", "edma"):
            run.socket_path(f"ask.{name}").touch()
        socket = run.socket_path("ask.epc")
        everyone = ("rc-host", *processes)
        assert set(able_to_answer(run, everyone)) == {"epc", "edma"}

        processes["edma"].send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, processes["edma"].pid, os.WSTOPPED | os.WNOWAIT)
        assert able_to_answer(run, everyone) == {"epc": socket}

        processes["edma"].send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, processes["edma"].pid, os.WCONTINUED | os.WNOWAIT)
        assert set(able_to_answer(run, everyone)) == {"epc", "edma"}
        assert able_to_answer(run, ("epc",)) == {"epc": socket}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
        run.remove()
