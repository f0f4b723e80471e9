"""A CPU through NumPy alone: float32 on whatever BLAS it has. The same runner code without PyTorch."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from simulator.kernel_runner.backend import Collected, DeviceFacts, PowerMeter, Prepared, Unsupported
from simulator.kernel_runner.kernel import HEAD_DIM, Family, Kernel
from simulator.kernel_runner.rotation import copies
from simulator.kernel_runner.routing import routed
from simulator.kernel_runner.work import moved_bytes

Array = npt.NDArray[np.float32]
Call = Callable[[], Any]

MOST_DRAWN = (1 << 20) + 1
"""Random numbers drawn for one operand, and repeated: drawing takes longer than most kernels. Odd, so that rows differ."""
HIDDEN, INTERMEDIATE, VOCABULARY, HEADS = 4096, 14336, 128256, 40
"""Llama-3.1-8B, whose layers the fit between the kernels is made for (config.json; 32 query and 8 key heads)."""


class NumpyBackend:
    """``--device cpu`` where PyTorch is not installed."""

    def __init__(self, device: str, num_threads: int | None = None) -> None:
        if num_threads is not None:
            raise UserError("--threads needs PyTorch; for NumPy set OMP_NUM_THREADS or OPENBLAS_NUM_THREADS instead")
        self.facts = cpu_facts(device, "numpy", np.__version__, f"{threads()} CPUs")
        self._rng = np.random.default_rng(0)

    def dtypes(self) -> tuple[str, ...]:
        """BLAS multiplies float32."""
        return ("float32",)

    def families(self) -> tuple[Family, ...]:
        """All that one process can do without a GPU."""
        return ("memory", "launch", "gemm", "prefill_attention", "decode_attention", "moe", "elementwise")

    def reason_against(self, family: Family) -> str:
        """Why not."""
        return {
            "host_copy": "a CPU has no link to a host",
            "collective": "needs PyTorch (pip install 'apex-sim[gpu]')",
        }.get(family, "not asked for")

    def prepare(self, kernel: Kernel) -> Prepared:
        """Operands of every copy, and a loop over them."""
        make = {
            "memory": self._memory,
            "launch": self._launch,
            "gemm": self._gemm,
            "prefill_attention": self._prefill,
            "decode_attention": self._decode,
            "moe": self._moe,
            "elementwise": self._elementwise,
        }[kernel.family]
        return timed_loop(make(kernel), "numpy")

    def collect(self, kernels: list[Kernel], seconds: float) -> Collected:
        """One process has nobody to reduce with."""
        raise Unsupported(self.reason_against("collective"))

    def alive(self) -> bool:
        """The CPU that runs this."""
        return True

    def power_meter(self) -> PowerMeter | None:
        """CPUs do not tell ordinary users."""
        return None

    def _random(self, *shape: int) -> Array:
        drawn = self._rng.standard_normal(min(math.prod(shape), MOST_DRAWN), dtype=np.float32)
        return np.resize(drawn, shape)

    def _launch(self, kernel: Kernel) -> Sequence[Call]:
        one, sum_ = self._random(1), self._random(1)
        return [lambda: np.add(one, one, out=sum_)]

    def _memory(self, kernel: Kernel) -> Sequence[Call]:
        size = kernel["bytes"] // 4
        pairs = [
            (np.ones(size, np.float32), np.ones(size, np.float32))
            for _ in range(copies(moved_bytes(kernel), self.facts))
        ]
        if kernel.op == "copy":
            return [lambda a=a, b=b: np.copyto(b, a) for a, b in pairs]  # type: ignore[misc]
        return [lambda a=a: a.sum() for a, _ in pairs]  # type: ignore[misc]

    def _gemm(self, kernel: Kernel) -> Sequence[Call]:
        x = self._random(kernel["m"], kernel["k"])
        count = copies(4.0 * kernel["n"] * kernel["k"], self.facts)
        weights = [self._random(kernel["n"], kernel["k"]) for _ in range(count)]
        return [lambda w=w: x @ w.T for w in weights]  # type: ignore[misc]

    def _prefill(self, kernel: Kernel) -> Sequence[Call]:
        b, h, kv, q, past = (kernel[f] for f in ("batch", "heads", "kv_heads", "tokens", "cached"))
        query = self._random(b, kv, h // kv, q, HEAD_DIM)
        keys, values = (self._random(b, kv, 1, q + past, HEAD_DIM) for _ in range(2))
        hidden = np.triu(np.full((q, q + past), -np.inf, np.float32), k=past + 1)
        return [lambda: _attention(query, keys, values, hidden)]

    def _decode(self, kernel: Kernel) -> Sequence[Call]:
        b, h, kv, context = (kernel[f] for f in ("batch", "heads", "kv_heads", "context"))
        query = self._random(b, kv, h // kv, HEAD_DIM)
        count = copies(moved_bytes(kernel), self.facts)
        caches = [
            (self._random(b, kv, context, HEAD_DIM), self._random(b, kv, context, HEAD_DIM)) for _ in range(count)
        ]
        return [lambda k=k, v=v: _attention(query, k, v, None) for k, v in caches]  # type: ignore[misc]

    def _moe(self, kernel: Kernel) -> Sequence[Call]:
        t, h, i, e = (kernel[f] for f in ("tokens", "hidden", "intermediate", "experts"))
        owner, counts = routed(t, e, kernel["top_k"])
        x = self._random(t, h)
        count = copies(12.0 * e * h * i, self.facts)
        weights = [(self._random(e, h, 2 * i), self._random(e, i, h)) for _ in range(count)]
        return [lambda up=up, down=down: _experts(x, owner, counts, up, down) for up, down in weights]  # type: ignore[misc]

    def _elementwise(self, kernel: Kernel) -> Sequence[Call]:
        tokens, op = kernel["tokens"], kernel.op
        if op in ("layernorm", "final_layernorm"):
            x, rest = self._random(tokens, HIDDEN), self._random(tokens, HIDDEN)
            total = np.empty_like(x)
            return [lambda: _norm(np.add(x, rest, out=total))]
        if op == "rotary_emb":
            heads, cosine = self._random(tokens, HEADS, HEAD_DIM), self._random(tokens, 1, HEAD_DIM)
            return [lambda: heads * cosine]
        if op == "act_fn":
            both = self._random(tokens, 2 * INTERMEDIATE)
            return [lambda: _silu(both[:, :INTERMEDIATE]) * both[:, INTERMEDIATE:]]
        if op == "sampler":
            logits = self._random(tokens, VOCABULARY)
            return [lambda: logits.argmax(axis=-1)]
        assert op == "embedding"
        table = self._random(VOCABULARY // 8, HIDDEN)
        return [lambda: table[np.arange(tokens)]]


def timed_loop(calls: Sequence[Call], implementation: str) -> Prepared:
    """A round is one call, on the next copy in turn; wall clock of the host."""
    turn = cycle(calls)

    def run(rounds: int) -> float:
        start = time.perf_counter()
        for call in islice(turn, rounds):
            call()
        return (time.perf_counter() - start) / rounds

    return Prepared(run, 1, implementation)


def threads() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_facts(device: str, framework: str, version: str, runtime: str) -> DeviceFacts:
    """Name, memory and last-level cache as Linux tells them; blanks elsewhere."""
    return DeviceFacts(
        device=device,
        name=_cpu_name(),
        kind="cpu",
        vendor=_cpu_vendor(),
        architecture=platform.machine(),
        memory_bytes=_memory_bytes(),
        cache_bytes=_cache_bytes(),
        framework=framework,
        framework_version=version,
        runtime=runtime,
    )


def _cpu_field(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _cpu_name() -> str:
    return _cpu_field("model name") or platform.processor() or platform.machine() or "cpu"


def _cpu_vendor() -> str:
    return {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}.get(
        _cpu_field("vendor_id"), _cpu_field("vendor_id") or "unknown"
    )


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return 0


def _cache_bytes() -> int:
    """Largest cache of the first CPU, in bytes (sysfs writes '32768K')."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text("utf-8").strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        digits = text.rstrip("KM")
        sizes.append(int(digits) * unit if digits.isdigit() else 0)
    return max(sizes, default=0)


def _attention(query: Array, keys: Array, values: Array, hidden: Array | None) -> Array:
    scores = query @ np.swapaxes(keys, -1, -2) * np.float32(HEAD_DIM**-0.5)
    if hidden is not None:
        scores += hidden
    return np.asarray(_softmax(scores) @ values)


def _softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _silu(x: Array) -> Array:
    with np.errstate(over="ignore"):  # exp(-x) is infinite where the result is 0
        return np.asarray(x / (np.float32(1) + np.exp(-x)))


def _norm(x: Array) -> Array:
    return np.asarray(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(1e-5)))


def _experts(x: Array, owner: npt.NDArray[np.int64], counts: list[int], up: Array, down: Array) -> Array:
    """Gated experts one after the other; rows gathered, and added up per token."""
    result, start = np.zeros_like(x), 0
    width = down.shape[1]
    for expert, rows in enumerate(counts):
        if rows:
            mine = owner[start : start + rows]
            both = x[mine] @ up[expert]
            np.add.at(result, mine, (_silu(both[:, :width]) * both[:, width:]) @ down[expert])
            start += rows
    return result
