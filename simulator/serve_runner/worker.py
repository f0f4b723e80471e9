"""Runs steps on a real device: the network, its KV cache, and CUDA graphs for decode steps where the device has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hardware_profiles.errors import UserError
from simulator.serve_runner.attention import KvCache, Tensor
from simulator.serve_runner.batch import Piece, StepBatch
from simulator.serve_runner.graphs import DecodeGraphs
from simulator.serve_runner.network import Network
from simulator.serve_runner.pages import PagedCache, paged_kernel
from simulator.serve_runner.shapes import Architecture
from simulator.serve_runner.slots import SlotCache

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker needs besides the model."""

    device: str
    """``cpu`` or ``cuda:N``."""
    dtype: str
    max_num_seqs: int
    max_model_len: int
    num_blocks: int
    block_size: int
    layout: str = "auto"
    """Of the KV cache: ``slots``, ``paged``, or ``auto`` (paged where the device has a kernel for it)."""
    threads: int | None = None
    """Threads of CPU kernels; None: PyTorch's choice."""
    graphs: bool = True
    """Replay decode steps from CUDA graphs, where that works."""


def open_device(name: str, threads: int | None = None) -> Any:
    """torch.device of a name. UserError when PyTorch or the device is missing."""
    try:
        import torch
    except ImportError:
        raise UserError("--serve needs PyTorch; pip install 'apex-sim[gpu]'") from None
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r} is no device; use cpu or cuda:0") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name!r}: the serving engine runs on cpu or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(f"--device {name}: PyTorch sees {count} CUDA devices; use cpu, or install the driver")
    elif threads is not None:
        torch.set_num_threads(threads)
    return device


class TorchWorker:
    """Executes steps with PyTorch. Exceptions of the device become UserErrors: a device can disappear."""

    def __init__(self, arch: Architecture, settings: WorkerSettings, seed: int = 0) -> None:
        import torch

        self.arch, self.settings = arch, settings
        self.device = open_device(settings.device, settings.threads)
        self.dtype = getattr(torch, settings.dtype)
        self.notes: list[str] = []
        """What a reader of the measurements should know of how they were made."""
        try:
            self.cache = self._cache()
            self.network = Network(
                arch, max_len=settings.max_model_len, dtype=self.dtype, device=self.device, seed=seed
            )
            self.graphs = self._graphs()
        except RuntimeError as error:
            raise _device_error(settings.device, error) from None

    def _cache(self) -> KvCache:
        s = self.settings
        kernel = None if s.layout == "slots" else paged_kernel(self.arch, self.device, self.dtype, s.block_size)
        common: dict[str, Any] = {"max_len": s.max_model_len, "dtype": self.dtype, "device": self.device}
        if kernel or s.layout == "paged":
            self.notes.append(f"KV cache: paged, {'PyTorch varlen kernel' if kernel else 'pages gathered before use'}")
            sizes = {"num_blocks": s.num_blocks, "block_size": s.block_size}
            return PagedCache(self.arch, **sizes, kernel=kernel, **common)
        self.notes.append("KV cache: one slot per sequence, scaled_dot_product_attention in place")
        return SlotCache(self.arch, slots=s.max_num_seqs, **common)

    def _graphs(self) -> DecodeGraphs | None:
        paged = isinstance(self.cache, PagedCache) and self.cache.kernel is not None
        if not (self.settings.graphs and self.device.type == "cuda" and paged):
            self.notes.append("every step runs eagerly, one launch per operation")
            return None
        if self.arch.num_experts and self.network.grouped is None:
            self.notes.append("eager: experts run one after another, which a CUDA graph cannot hold")
            return None
        assert isinstance(self.cache, PagedCache)
        graphs = DecodeGraphs(self.network, self.cache, self.settings.max_num_seqs)
        try:
            graphs.capture()
        except RuntimeError as error:
            self.notes.append(f"eager: CUDA graphs could not be captured ({str(error).splitlines()[0][:100]})")
            return None
        self.notes.append(f"decode steps replay CUDA graphs of {', '.join(map(str, graphs.sizes))} sequences")
        return graphs

    @property
    def threads(self) -> int | None:
        """Threads that compute, on a CPU."""
        import torch

        return int(torch.get_num_threads()) if self.device.type == "cpu" else None

    def execute(self, batch: StepBatch) -> list[int]:
        """See Worker: returns when the sampled tokens are on the host."""
        import torch

        try:
            with torch.inference_mode():
                greedy = self._sample(batch).tolist()
                if not greedy and self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)  # nothing was copied to the host that would have waited
                return self._spread(batch, greedy)
        except RuntimeError as error:
            raise _device_error(self.settings.device, error) from None

    def _sample(self, batch: StepBatch) -> Tensor:
        if self.graphs is not None and not batch.prefill:
            return self.graphs.replay(batch.decode)
        return self.logits(batch).argmax(dim=-1)

    def logits(self, batch: StepBatch) -> Tensor:
        """Logits of the pieces that sample, in their order."""
        import torch

        attention = self.cache.prepare(batch)
        pieces = batch.pieces
        numbers = [(t, p.start + i) for p in pieces for i, t in enumerate(p.tokens)]
        both = torch.tensor(numbers, dtype=torch.int64).to(self.device, non_blocking=True)
        rows = None
        if batch.prefill:
            rows = torch.tensor(_last_rows(pieces), dtype=torch.int64).to(self.device, non_blocking=True)
        return self.network.logits(both[:, 0], both[:, 1], attention, rows)

    def _spread(self, batch: StepBatch, greedy: list[int]) -> list[int]:
        sampling = [piece for piece in batch.pieces if piece.samples]
        return [spread(t, p, self.arch.vocab) for t, p in zip(greedy, sampling, strict=True)]

    def release(self, row: int) -> None:
        """Forget a sequence."""
        self.cache.release(row)


def spread(token: int, piece: Piece, vocab: int) -> int:
    """The greedy token, moved on by a step that depends on sequence and position.

    Random weights make greedy decoding run in short cycles that all sequences fall into; their rows would then all go to
    the same experts. The result still depends on every computed token, and a sequence computed again repeats itself.
    """
    return (token + 7919 * piece.row + 104_729 * piece.end) % vocab


def _last_rows(pieces: Sequence[Piece]) -> list[int]:
    rows, at = [], 0
    for piece in pieces:
        at += len(piece.tokens)
        if piece.samples:
            rows.append(at - 1)
    return rows


def _device_error(device: str, error: RuntimeError) -> UserError:
    text = str(error).strip().splitlines()
    reason = text[0][:200] if text else type(error).__name__
    return UserError(f"--device {device}: a kernel failed: {reason}; nothing was written")
