"""Which devices sessions get, and what the management library and the system tell of them."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from nbcloud.sessions.host import nvml
from nbcloud.sessions.host.devices import Devices
from nbcloud.sessions.host.usage import Usage


def test_sessions_get_devices_of_their_own_and_give_them_back() -> None:
    devices = Devices({"CUDA_VISIBLE_DEVICES": "4,5,GPU-6"}, 3)
    assert devices.take("a", 1) == ["4"]
    assert devices.take("b", 2) == ["5", "GPU-6"]
    devices.give_back("a")
    devices.give_back("never here")
    assert devices.take("c", 1) == ["4"]
    assert devices.environment(["5", "GPU-6"])["CUDA_VISIBLE_DEVICES"] == "5,GPU-6"


def test_devices_that_nobody_named_are_numbered() -> None:
    devices = Devices({}, 2)
    assert [devices.take("a", 1), devices.take("b", 1)] == [["0"], ["1"]]


def test_a_session_that_asked_for_none_sees_none_where_gpus_are_declared_and_all_elsewhere() -> None:
    assert Devices({}, 2).environment([])["CUDA_VISIBLE_DEVICES"] == ""
    assert Devices({"CUDA_VISIBLE_DEVICES": "0"}, 0).environment([]) == {}


@pytest.mark.parametrize("variable", ["HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_where_the_worker_names_devices_of_another_maker_so_does_the_session(variable: str) -> None:
    devices = Devices({variable: "0,1"}, 2)
    assert devices.environment(devices.take("a", 1)) == {variable: "0"}
    assert devices.environment([]) == {variable: "-1"}


@pytest.mark.parametrize("listed", ["", "0", "-1"])
def test_a_worker_that_declares_more_than_it_has_says_so(listed: str) -> None:
    with pytest.raises(LookupError, match="more GPUs than CUDA_VISIBLE_DEVICES names"):
        Devices({"CUDA_VISIBLE_DEVICES": listed}, 2).take("a", 2)


class Library(types.ModuleType):
    """As much of pynvml as is asked: device 0 tells everything, the MIG device only its memory."""

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index != 0:
            raise RuntimeError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetName(self, handle: object) -> bytes:
        return b"NVIDIA H100"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.1"

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> object:
        return types.SimpleNamespace(total=80, used=7)

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> object:
        if handle != 0:
            raise RuntimeError("Not Supported")
        return types.SimpleNamespace(gpu=93)


def test_the_management_library_is_read_as_far_as_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Library("pynvml"))
    assert nvml.facts(["0"]) == {"gpu_names": ["NVIDIA H100"], "gpu_memory": [80], "gpu_driver": "570.1"}
    watch = nvml.Watch(["0", "MIG-1", "5"])
    assert watch.look() == {"0": {"utilisation": 93.0, "memory": 7.0}, "MIG-1": {"memory": 7.0}}
    usage = Usage(os.getpid(), ["0"])
    usage.look()
    usage.look()
    (gpu,) = usage.summary()["gpus"]
    assert gpu == {
        "device": "0",
        "utilisation": {"max": 93, "mean": 93},
        "memory": {"max": 7, "mean": 7},
    }


def test_without_the_management_library_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.facts(["0"]) == {}
    assert nvml.Watch(["0"]).look() == {}


def test_processors_and_memory_are_those_of_the_whole_tree() -> None:
    code = (
        "import subprocess, sys\n"
        "block = b'x' * 2**26\n"
        "loop = 'print(1, flush=True)\\nwhile True: pass'\n"
        "subprocess.run([sys.executable, '-c', loop])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        usage = Usage(process.pid)
        usage.look()
        assert usage.summary() == {}
        while not usage.summary() or usage.summary()["cpus"]["max"] < 0.3:
            usage.look()
        assert usage.summary()["memory"]["mean"] > 2**26
        assert "gpus" not in usage.summary()
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()
