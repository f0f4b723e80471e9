"""A CPU or an NVIDIA (or other CUDA-like) GPU through PyTorch; imported only when one is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from hardware_profiles.errors import UserError
from simulator.kernel_runner.backend import Collected, DeviceFacts, PowerMeter, Prepared, Unsupported
from simulator.kernel_runner.kernel import Family, Kernel
from simulator.kernel_runner.numpy_backend import cpu_facts, timed_loop
from simulator.kernel_runner.power_meter import Limits, open_meter
from simulator.kernel_runner.torch_kernels import Calls, TorchKernels

INSTALL = "install it with: pip install 'apex-sim[gpu]'"
COMPUTE: tuple[Family, ...] = (
    "memory",
    "launch",
    "gemm",
    "prefill_attention",
    "decode_attention",
    "moe",
    "elementwise",
)
LEAST_GRAPH_S = 2e-4
"""Work captured in one CUDA graph, so that the few microseconds between two replays do not count [s]."""
MOST_PASSES = 50
"""Most passes over the copies in one graph."""
MOST_RESERVED = 0.4
"""Share of the device's memory that the allocator may hold between two kernels."""


def import_torch() -> ModuleType:
    """PyTorch, or one line that says how to get it."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"--device needs PyTorch, which cannot be imported ({error}); {INSTALL}") from None
    module: ModuleType = torch
    return module


class TorchBackend:
    """Shared by CPUs and GPUs; what differs is how a list of calls is timed."""

    def __init__(self, device: str, num_threads: int | None = None) -> None:
        self._torch: Any = import_torch()
        self._is_gpu = device != "cpu"
        self._meter: PowerMeter | None = None
        if self._is_gpu:
            try:
                index = self._gpu_index(device)
                self._torch.cuda.set_device(index)
                self.facts, self._meter = self._gpu_facts(device, index)
            except RuntimeError as error:  # a broken driver, a GPU that others hold exclusively
                text = " ".join(str(error).split())[:160]
                raise UserError(
                    f"--device {device} cannot be opened ({text}); see what nvidia-smi says of it"
                ) from None
        else:
            if num_threads is not None:
                self._torch.set_num_threads(num_threads)
            count = self._torch.get_num_threads()
            runtime = f"{count} thread{'s' if count > 1 else ''}"
            self.facts = cpu_facts(device, "torch", self._torch.__version__, runtime)
        self._kernels = TorchKernels(self._torch, "cuda" if self._is_gpu else "cpu", self.facts)

    def _gpu_index(self, device: str) -> int:
        cuda = self._torch.cuda
        if not cuda.is_available():
            raise UserError(f"--device {device}: PyTorch {self._torch.__version__} sees no GPU; use --device cpu")
        index = int(device.partition(":")[2] or 0)
        if index >= cuda.device_count():
            there = ", ".join(f"cuda:{i}" for i in range(cuda.device_count()))
            raise UserError(f"--device {device}: there is no such GPU; visible: {there}")
        return index

    def _gpu_facts(self, device: str, index: int) -> tuple[DeviceFacts, PowerMeter | None]:
        torch = self._torch
        properties = torch.cuda.get_device_properties(index)
        uuid = str(getattr(properties, "uuid", ""))
        meter, limits = open_meter(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}") if uuid else (None, Limits())
        amd = bool(getattr(torch.version, "hip", None))
        major, minor = torch.cuda.get_device_capability(index)
        toolkit = f"ROCm {torch.version.hip}" if amd else f"CUDA {torch.version.cuda}"
        facts = DeviceFacts(
            device=device,
            name=properties.name,
            kind="gpu",
            vendor="AMD" if amd else "NVIDIA",
            architecture=getattr(properties, "gcnArchName", "")
            if amd
            else ARCHITECTURES.get((major, minor), f"sm_{major}{minor}"),
            num_sms=properties.multi_processor_count,
            memory_bytes=limits.memory_bytes or properties.total_memory,
            cache_bytes=int(getattr(properties, "L2_cache_size", 0)),
            power_limit_w=limits.power_limit_w,
            min_cap_w=limits.min_cap_w,
            framework="torch",
            framework_version=torch.__version__,
            runtime=toolkit + (f", driver {limits.driver}" if limits.driver else ""),
            num_devices=torch.cuda.device_count(),
        )
        return facts, meter

    def dtypes(self) -> tuple[str, ...]:
        """Main one first; 8-bit formats where a small product runs."""
        wide = ("bfloat16", "float16") if self._is_gpu else ("float32", "bfloat16")
        return (*wide, *(d for d in ("fp8", "int8") if self._is_gpu and self._kernels.multiplies(d)))

    def families(self) -> tuple[Family, ...]:
        """Copies to a host only where there is one, collectives where processes can talk."""
        links: tuple[Family, ...] = ("host_copy",) if self._is_gpu else ()
        return (*COMPUTE, *links, "collective")

    def reason_against(self, family: Family) -> str:
        """Why not."""
        return {"host_copy": "a CPU has no link to a host", "storage": "no --scratch folder was given"}.get(family, "")

    def prepare(self, kernel: Kernel) -> Prepared:
        """Operands in place; on GPUs the calls are captured in a CUDA graph where they can be."""
        if self._is_gpu:
            self._give_back()
        made = self._kernels.make(kernel)
        if not self._is_gpu:
            return timed_loop(made.calls, made.implementation)
        if made.graph:
            try:
                return self._captured(made)
            except Unsupported:
                raise
            except Exception as error:
                if not self.alive():
                    raise
                made.note = f"not in a CUDA graph: {' '.join(str(error).split())[:80]}"
        return Prepared(self._queued(made.calls), len(made.calls), made.described)

    def _give_back(self) -> None:
        """Return cached memory before it crowds out the next operands: graphs keep theirs in pools of their own."""
        cuda = self._torch.cuda
        if cuda.memory_reserved() > MOST_RESERVED * self.facts.memory_bytes:
            cuda.empty_cache()

    def _captured(self, made: Calls) -> Prepared:
        """One graph of as many passes over the copies as fill it, timed by events around its replays."""
        torch = self._torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for call in made.calls[:3]:
                call()
            pass_s = self._queued(made.calls)(1) * len(made.calls)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        passes = min(MOST_PASSES, max(1, math.ceil(LEAST_GRAPH_S / max(pass_s, 1e-6))))
        calls = made.calls * passes
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in calls:
                call()
        return Prepared(self._between_events(graph.replay, len(calls)), len(calls), made.described)

    def _queued(self, calls: Sequence[Callable[[], Any]]) -> Callable[[int], float]:
        """Eager calls: the time of the device or of the host that launches them, whichever is longer."""

        def once() -> None:
            for call in calls:
                call()

        return self._between_events(once, len(calls))

    def _between_events(self, once: Callable[[], Any], calls: int) -> Callable[[int], float]:
        torch = self._torch

        def run(rounds: int) -> float:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(rounds):
                once()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) * 1e-3 / (rounds * calls)

        return run

    def collect(self, kernels: list[Kernel], seconds: float) -> Collected:
        """All-reduce between processes: NCCL over the visible GPUs, gloo on a CPU."""
        from simulator.kernel_runner.collective import collect

        if self._is_gpu and self.facts.num_devices < 2:
            raise Unsupported("one GPU is visible: nothing to reduce with")
        return collect(kernels, "nccl" if self._is_gpu else "gloo", seconds)

    def alive(self) -> bool:
        """A small sum on the device, right and in time."""
        torch = self._torch
        try:
            ones = torch.ones(16, device="cuda" if self._is_gpu else "cpu")
            return bool(ones.sum().item() == 16.0)
        except Exception:  # any error here means that the device is gone
            return False

    def power_meter(self) -> PowerMeter | None:
        """NVML or nvidia-smi, where there is one."""
        return self._meter


ARCHITECTURES = {
    (7, 0): "Volta",
    (7, 5): "Turing",
    (8, 0): "Ampere",
    (8, 6): "Ampere",
    (8, 9): "Ada Lovelace",
    (9, 0): "Hopper",
    (10, 0): "Blackwell",
    (10, 3): "Blackwell",
    (12, 0): "Blackwell",
}
"""Names of compute capabilities (CUDA C++ programming guide, table of compute capabilities)."""
