"""The kernels in PyTorch: operands of every copy and the calls to be timed, for any device that PyTorch knows.

What an engine fuses is stood for by one library kernel of the same memory traffic: rotary embedding by a product with
the cosines, a gated activation by ``glu``, an RMS norm with residual by an addition and a layer norm, the quantisation of
activations by a cast. Sampling draws from the softmax by the exponential race (GPUs) or takes the largest (CPUs).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

from simulator.kernel_runner.backend import DeviceFacts, Unsupported
from simulator.kernel_runner.kernel import ELEMENT_BYTES, HEAD_DIM, Kernel
from simulator.kernel_runner.kernel import kernel as kernel_of
from simulator.kernel_runner.numpy_backend import HEADS, HIDDEN, INTERMEDIATE, VOCABULARY
from simulator.kernel_runner.rotation import copies
from simulator.kernel_runner.routing import routed
from simulator.kernel_runner.work import active_experts, moved_bytes

Call = Callable[[], Any]
Tensor = Any
MOST_DRAWN = (1 << 22) + 1
"""Random numbers drawn for one operand, and repeated: a CPU draws slowly. Odd, so that rows differ."""
PAGE_TOKENS = 256
"""Tokens of a KV block: the smallest that FlashAttention-2 takes."""


@dataclass(slots=True)
class Calls:
    """One call per copy of the operands."""

    calls: list[Call]
    implementation: str
    graph: bool = True
    """May be captured in a CUDA graph."""
    note: str = ""

    @property
    def described(self) -> str:
        """Implementation with the note."""
        return f"{self.implementation}; {self.note}" if self.note else self.implementation


class TorchKernels:
    """Makes calls of kernels on one device."""

    def __init__(self, torch: Any, place: str, facts: DeviceFacts) -> None:
        self._torch, self._place, self._facts = torch, place, facts
        self._functional: Any = import_module("torch.nn.functional")
        torch.manual_seed(0)
        torch.set_grad_enabled(False)

    def make(self, kernel: Kernel) -> Calls:
        """The calls of any kernel but collectives and storage."""
        return {
            "memory": self._memory,
            "launch": self._launch,
            "gemm": self._gemm,
            "prefill_attention": self._prefill,
            "decode_attention": self._decode,
            "moe": self._moe,
            "elementwise": self._elementwise,
            "host_copy": self._host_copy,
        }[kernel.family](kernel)

    def multiplies(self, dtype: str) -> bool:
        """Whether a small product in an 8-bit dtype runs here."""
        try:
            self._gemm(kernel_of("gemm", "", dtype, m=32, n=64, k=64)).calls[0]()
        except Exception:  # not supported has as many shapes as there are backends
            return False
        return True

    def _random(self, *shape: int, dtype: str) -> Tensor:
        """Normal numbers: zeros would draw less power and so run at higher clocks."""
        torch = self._torch
        if dtype == "int8":
            return torch.randint(-127, 127, shape, dtype=torch.int8, device=self._place)
        wide = {"float32": torch.float32, "float16": torch.float16}.get(dtype, torch.bfloat16)
        count = math.prod(shape)
        drawn = torch.randn(min(count, MOST_DRAWN), dtype=wide, device=self._place)
        numbers = drawn.repeat(-(-count // MOST_DRAWN))[:count].reshape(shape)
        return numbers.to(torch.float8_e4m3fn) if dtype == "fp8" else numbers

    def _launch(self, kernel: Kernel) -> Calls:
        """An addition of one number: what a kernel costs that does nothing, queued in a graph or launched one by one."""
        one = self._torch.ones(1, device=self._place)
        return Calls([lambda: one.add_(1.0)] * 50, "one addition", graph=kernel.op == "queued")

    def _memory(self, kernel: Kernel) -> Calls:
        count = copies(moved_bytes(kernel), self._facts)
        size = kernel["bytes"] // 4
        sources = [self._torch.ones(size, device=self._place) for _ in range(count)]
        if kernel.op == "read":
            return Calls([_call(source.sum) for source in sources], "sum")
        targets = [self._torch.zeros_like(source) for source in sources]  # written once: their pages exist
        return Calls([_call(b.copy_, a) for a, b in zip(sources, targets, strict=True)], "copy_")

    def _host_copy(self, kernel: Kernel) -> Calls:
        torch, count = self._torch, kernel["bytes"]
        pinned = torch.empty(count, dtype=torch.uint8, pin_memory=True)
        there = torch.empty(count, dtype=torch.uint8, device=self._place)
        target, source = (there, pinned) if kernel.op == "to_device" else (pinned, there)
        return Calls([lambda: target.copy_(source, non_blocking=True)], "pinned copy_", graph=False)

    def _gemm(self, kernel: Kernel) -> Calls:
        m, n, k, dtype = kernel["m"], kernel["n"], kernel["k"], kernel.dtype
        count = copies(ELEMENT_BYTES[dtype] * n * k, self._facts)
        if dtype in ("fp8", "int8"):
            return self._eight_bits(kernel, count)
        x = self._random(m, k, dtype=dtype)
        weights = [self._random(n, k, dtype=dtype) for _ in range(count)]
        return Calls([_call(self._functional.linear, x, w) for w in weights], "linear")

    def _eight_bits(self, kernel: Kernel, count: int) -> Calls:
        """Activations in 16 bits are cast by a kernel of their own (static scale), then multiplied."""
        torch, m, n, k = self._torch, kernel["m"], kernel["n"], kernel["k"]
        x = self._random(m, k, dtype="bfloat16")
        weights = [self._random(n, k, dtype=kernel.dtype).t() for _ in range(count)]
        if kernel.dtype == "int8":
            if m <= 16 and self._place != "cpu":
                raise Unsupported("torch._int_mm takes more than 16 rows on a GPU")
            return Calls([_call(_cast_int_mm, torch, x, w) for w in weights], "cast and _int_mm")
        one = torch.ones((), device=self._place)
        return Calls(
            [_call(_cast_scaled_mm, torch, x, w, one) for w in weights], "cast and _scaled_mm, one scale per tensor"
        )

    def _prefill(self, kernel: Kernel) -> Calls:
        """Prompts, maybe behind a cached prefix, by the first of: paged kernel, flash-attn, PyTorch's own choice."""
        copies(moved_bytes(kernel), self._facts)
        paged = self._paged(kernel, 1)
        if paged is not None:
            return paged
        b, h, kv, q, past = (kernel[f] for f in ("batch", "heads", "kv_heads", "tokens", "cached"))
        flash = flash_attention() if self._has_paged_kernels(kernel) else None
        if flash is not None:
            query = self._random(b, q, h, HEAD_DIM, dtype=kernel.dtype)
            keys, values = (self._random(b, q + past, kv, HEAD_DIM, dtype=kernel.dtype) for _ in range(2))
            return Calls([lambda: flash.flash_attn_func(query, keys, values, causal=True)], "flash_attn_func")
        query = self._random(b, h, q, HEAD_DIM, dtype=kernel.dtype)
        keys, values = (self._random(b, kv, q + past, HEAD_DIM, dtype=kernel.dtype) for _ in range(2))
        attend = self._functional.scaled_dot_product_attention
        if past == 0:
            return Calls([lambda: attend(query, keys, values, is_causal=True, enable_gqa=h != kv)], "sdpa")
        bias = import_module("torch.nn.attention.bias").causal_lower_right(q, q + past)
        return Calls([lambda: attend(query, keys, values, attn_mask=bias, enable_gqa=h != kv)], "sdpa")

    def _decode(self, kernel: Kernel) -> Calls:
        """Without a paged kernel the query heads of a group are the rows of one query, so that KV is read once."""
        count = copies(moved_bytes(kernel), self._facts)
        paged = self._paged(kernel, count) or self._paged_flash(kernel, count)
        if paged is not None:
            return paged
        b, h, kv, context = (kernel[f] for f in ("batch", "heads", "kv_heads", "context"))
        query = self._random(b, kv, h // kv, HEAD_DIM, dtype=kernel.dtype)
        attend = self._functional.scaled_dot_product_attention
        caches = [self._pair(b, kv, context, HEAD_DIM, dtype=kernel.dtype) for _ in range(count)]
        return Calls([_call(attend, query, k, v) for k, v in caches], "sdpa, contiguous KV")

    def _pair(self, *shape: int, dtype: str) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        return self._random(*shape, dtype=dtype), self._random(*shape, dtype=dtype)

    def _has_paged_kernels(self, kernel: Kernel) -> bool:
        return self._place != "cpu" and kernel.dtype in ("bfloat16", "float16")

    def _paged(self, kernel: Kernel, count: int) -> Calls | None:
        """PyTorch's variable-length kernel on pages in random order; None where this PyTorch or device has none."""
        attend = varlen_attention() if self._has_paged_kernels(kernel) else None
        if attend is None:
            return None
        torch, batch = self._torch, kernel["batch"]
        rows, length = (1, kernel["context"]) if kernel.family == "decode_attention" else _chunk(kernel)
        table, lengths = self._page_table(batch, length)
        starts = torch.arange(batch + 1, dtype=torch.int32, device=self._place) * rows
        query = self._random(batch * rows, kernel["heads"], HEAD_DIM, dtype=kernel.dtype)

        def call(keys: Tensor, values: Tensor) -> Tensor:
            return attend(
                query,
                keys,
                values,
                starts,
                None,
                rows,
                length,
                window_size=(-1, 0),
                enable_gqa=kernel["heads"] != kernel["kv_heads"],
                seqused_k=lengths,
                block_table=table,
            )

        pool = (table.numel(), PAGE_TOKENS, kernel["kv_heads"], HEAD_DIM)
        caches = [self._pair(*pool, dtype=kernel.dtype)]
        if not _runs(call, *caches[0]):
            return None
        caches += [self._pair(*pool, dtype=kernel.dtype) for _ in range(count - 1)]
        return Calls([_call(call, k, v) for k, v in caches], f"varlen_attn, KV in pages of {PAGE_TOKENS}")

    def _paged_flash(self, kernel: Kernel, count: int) -> Calls | None:
        """The package flash-attn on pages in random order; None where it is not installed."""
        flash = flash_attention() if self._has_paged_kernels(kernel) else None
        if flash is None:
            return None
        table, lengths = self._page_table(kernel["batch"], kernel["context"])
        query = self._random(kernel["batch"], 1, kernel["heads"], HEAD_DIM, dtype=kernel.dtype)
        pool = (table.numel(), PAGE_TOKENS, kernel["kv_heads"], HEAD_DIM)

        def call(keys: Tensor, values: Tensor) -> Tensor:
            return flash.flash_attn_with_kvcache(
                query, keys, values, cache_seqlens=lengths, block_table=table, causal=True
            )

        caches = [self._pair(*pool, dtype=kernel.dtype) for _ in range(count)]
        return Calls([_call(call, k, v) for k, v in caches], f"flash_attn_with_kvcache, KV in pages of {PAGE_TOKENS}")

    def _page_table(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        """int32[batch, pages] in random order, and int32[batch] lengths."""
        torch, pages = self._torch, -(-length // PAGE_TOKENS)
        table = torch.randperm(batch * pages, device=self._place).to(torch.int32).reshape(batch, pages)
        return table, torch.full((batch,), length, dtype=torch.int32, device=self._place)

    def _moe(self, kernel: Kernel) -> Calls:
        """Gated experts on sorted rows: gather, two products with the activation between, weighted sum per token."""
        torch, t, h, i, e = self._torch, *(kernel[f] for f in ("tokens", "hidden", "intermediate", "experts"))
        size = 3 * h * i * ELEMENT_BYTES[kernel.dtype]
        copies(size * e, self._facts)
        count = min(
            copies(size * active_experts(kernel), self._facts), max(1, int(_most_bytes(self._facts) / (size * e)))
        )
        owner, rows = routed(t, e, kernel["top_k"])
        owners = torch.tensor(owner, device=self._place)
        ends = torch.tensor(rows, device=self._place).cumsum(0).to(torch.int32)
        x = self._random(t, h, dtype=kernel.dtype)
        weights = [
            (self._random(e, 2 * i, h, dtype=kernel.dtype), self._random(e, h, i, dtype=kernel.dtype))
            for _ in range(count)
        ]
        grouped = getattr(self._functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
        glu = self._functional.glu

        def together(up: Tensor, down: Tensor) -> Tensor:
            assert grouped is not None
            inner = glu(grouped(x[owners], up.transpose(1, 2), offs=ends))
            return torch.zeros_like(x).index_add_(0, owners, grouped(inner, down.transpose(1, 2), offs=ends))

        def one_by_one(up: Tensor, down: Tensor) -> Tensor:
            result, start = torch.zeros_like(x), 0
            for expert, count in enumerate(rows):
                if count:
                    mine = owners[start : start + count]
                    result.index_add_(0, mine, glu(x[mine] @ up[expert].t()) @ down[expert].t())
                    start += count
            return result

        if self._place != "cpu" and kernel.dtype == "bfloat16" and _runs(together, *weights[0]):
            return Calls([_call(together, *w) for w in weights], "grouped_mm")
        return Calls([_call(one_by_one, *w) for w in weights], "one product per expert")

    def _elementwise(self, kernel: Kernel) -> Calls:
        torch, tokens, op, dtype = self._torch, kernel["tokens"], kernel.op, kernel.dtype
        functional = self._functional
        if op in ("layernorm", "final_layernorm"):
            x, rest = (self._random(tokens, HIDDEN, dtype=dtype) for _ in range(2))
            weight, total = self._random(HIDDEN, dtype=dtype), torch.empty_like(x)
            return Calls(
                [lambda: functional.layer_norm(torch.add(x, rest, out=total), (HIDDEN,), weight)], "add and layer_norm"
            )
        if op == "rotary_emb":
            heads, cosine = (
                self._random(tokens, HEADS, HEAD_DIM, dtype=dtype),
                self._random(tokens, 1, HEAD_DIM, dtype=dtype),
            )
            return Calls([lambda: heads * cosine], "mul")
        if op == "act_fn":
            both = self._random(tokens, 2 * INTERMEDIATE, dtype=dtype)
            return Calls([lambda: functional.glu(both)], "glu")
        if op == "sampler":
            logits = self._random(tokens, VOCABULARY, dtype=dtype)
            if self._place == "cpu":  # engines on CPUs decode greedily: the race's random numbers take milliseconds
                return Calls([lambda: logits.argmax(dim=-1)], "argmax")
            return Calls([lambda: _sample(torch, logits)], "softmax and exponential race", graph=False)
        assert op == "embedding"
        table = self._random(VOCABULARY, HIDDEN, dtype=dtype)
        ids = torch.arange(tokens, device=self._place)
        return Calls([lambda: functional.embedding(ids, table)], "embedding")


def _chunk(kernel: Kernel) -> tuple[int, int]:
    """Query rows of one sequence, and keys that they may see at the end."""
    return kernel["tokens"], kernel["tokens"] + kernel["cached"]


def _call(function: Callable[..., Any], *operands: Any) -> Call:
    return lambda: function(*operands)


def _runs(function: Callable[..., Any], *operands: Any) -> bool:
    try:
        function(*operands)
    except Exception:  # older versions and architectures refuse it each in their own way
        return False
    return True


def _cast_scaled_mm(torch: Any, x: Tensor, weight: Tensor, one: Tensor) -> Tensor:
    return torch._scaled_mm(x.to(torch.float8_e4m3fn), weight, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def _cast_int_mm(torch: Any, x: Tensor, weight: Tensor) -> Tensor:
    return torch._int_mm(x.to(torch.int8), weight)


def _sample(torch: Any, logits: Tensor) -> Tensor:
    weights = torch.softmax(logits, dim=-1, dtype=torch.float32)
    return weights.div_(torch.empty_like(weights).exponential_()).argmax(dim=-1)


def _most_bytes(facts: DeviceFacts) -> float:
    return 0.4 * facts.memory_bytes if facts.memory_bytes else 4e9


@lru_cache(maxsize=1)
def varlen_attention() -> Any:
    """PyTorch's variable-length attention, since 2.10; whether it takes page tables shows when it is called."""
    try:
        return import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None


@lru_cache(maxsize=1)
def flash_attention() -> Any:
    """The package flash-attn, where it is installed and imports; None otherwise."""
    try:
        return import_module("flash_attn")
    except Exception:  # a build for another PyTorch raises anything
        return None
