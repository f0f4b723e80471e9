"""Power of a GPU while it serves, read through NVML beside the run."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

INTERVAL_S = 0.05
"""Between readings; the sensor of data-centre GPUs averages over 0.1 s or more (NVML: power.draw.average)."""


class PowerLog:
    """Mean power between ``with`` and its end; without a sensor it measures nothing."""

    def __init__(self, read_w: Any | None) -> None:
        self._read_w = read_w
        self._thread: threading.Thread | None = None
        self._readings: list[float] = []
        self._stop = threading.Event()

    @classmethod
    def open(cls, device: str) -> PowerLog:
        """Of a CUDA device, if nvidia-ml-py is installed and the driver answers."""
        if not device.startswith("cuda"):
            return cls(None)
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(device.partition(":")[2] or 0))
            pynvml.nvmlDeviceGetPowerUsage(handle)
        except Exception:  # no package, no driver, no permission: power is an extra
            return cls(None)
        return cls(lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3)

    def __enter__(self) -> PowerLog:
        self._readings = []
        if self._read_w is not None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        assert self._read_w is not None
        while not self._stop.wait(INTERVAL_S):
            try:
                self._readings.append(float(self._read_w()))
            except Exception:  # a reading lost is no reason to stop serving
                return

    @property
    def mean_w(self) -> float | None:
        """Mean of the readings [W]; None without any."""
        return sum(self._readings) / len(self._readings) if self._readings else None
