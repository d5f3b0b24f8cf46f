from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from ntbnet.edge.process import ProcessRecord, alive, own_record, record_of, send_signal, usage_of


def test_own_process_is_alive() -> None:
    assert own_record().pid == os.getpid()
    assert alive(own_record())


def test_other_start_time_under_the_same_id_is_another_process() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        record = record_of(child.pid)
        assert record is not None
        impostor = ProcessRecord(record.pid, record.start_ticks - 1)

        assert not alive(impostor)
        assert not send_signal(impostor, signal.SIGKILL)
        assert child.poll() is None

        assert send_signal(record, signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL
        assert not alive(record)
        assert not send_signal(record, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()


def test_usage_is_that_of_the_process() -> None:
    used = usage_of(own_record())

    assert used is not None
    assert used.cpu_s == pytest.approx(time.process_time(), abs=0.1)
    assert 1 << 20 < used.resident_bytes < 1 << 34
    assert 0 < used.age_s < 86400
    assert not used.is_stopped


def test_usage_tells_a_stopped_process_and_none_of_one_that_ended() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        record = record_of(child.pid)
        assert record is not None
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        used = usage_of(record)
        assert used is not None
        assert used.is_stopped
        assert usage_of(ProcessRecord(record.pid, record.start_ticks - 1)) is None
    finally:
        child.kill()
        child.wait()
    assert usage_of(record) is None


def test_zombie_counts_as_dead() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert record_of(child.pid) is None

    child.wait()


def test_name_with_spaces_and_brackets_does_not_shift_the_fields() -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        with open("/proc/self/comm", "w") as comm:  # noqa: PTH123 - a forked child does the least it can
            comm.write("a) Z 9 (")
        os.write(write_end, b"x")
        signal.pause()
    os.read(read_end, 1)
    try:
        record = record_of(pid)
        assert record is not None
        assert record.start_ticks >= own_record().start_ticks
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize(("pid", "ticks"), [(0, 1), (-1, 1), (1 << 23, 1), (1, -1), (1, 1 << 64)])
def test_numbers_no_process_has_are_refused(pid: int, ticks: int) -> None:
    with pytest.raises(ValueError, match="no "):
        ProcessRecord(pid, ticks)
