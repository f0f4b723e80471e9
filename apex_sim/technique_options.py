"""Arguments of the techniques that change the cost of a step (docs/techniques.md)."""

from __future__ import annotations

import argparse


def add_techniques(parser: argparse.ArgumentParser) -> None:
    """--cpu-offload-gb and the like; None, the default of all, leaves a technique off."""
    group = parser.add_argument_group("techniques (docs/techniques.md)")
    group.add_argument("--cpu-offload-gb", type=float, metavar="GIB", help="weights kept in host memory, per device")
    group.add_argument(
        "--offload-backend",
        metavar="NAME",
        help="uva (default), prefetch, blocking, cpu-layers, cpu-neurons: who moves or computes offloaded weights",
    )
    group.add_argument("--offload-source", metavar="NAME", help="dram (default) or a drive, such as nvme-pcie4")
    group.add_argument(
        "--offload-prefetch-step", type=int, metavar="N", help="blocks that copies are ahead (default 1)"
    )
    group.add_argument("--comm-overlap", type=float, metavar="SHARE", help="share of the collectives that work hides")
    group.add_argument("--nano-batch-tokens", type=int, metavar="N", help="split steps of N tokens and more (NanoFlow)")
    group.add_argument("--fused-moe", action="store_true", default=None, help="exchange and experts in one kernel")
    group.add_argument("--attention-density", type=float, metavar="SHARE", help="share of the context attended to")
    group.add_argument("--attention-top-k", type=int, metavar="TOKENS", help="most tokens that a query attends to")
    group.add_argument(
        "--attention-selection", type=float, metavar="SHARE", help="cost of choosing them, of full attention"
    )
    group.add_argument(
        "--kv-compression", type=float, metavar="SHARE", help="share of the KV cache's bytes that is kept"
    )
    group.add_argument(
        "--prompt-layer-shares",
        metavar="FIRST,LAST",
        help="of the prompt, kept by the first and last layer (PyramidInfer)",
    )
    group.add_argument("--activation-sparsity", type=float, metavar="SHARE", help="neurons that a token leaves at zero")
    group.add_argument("--activation-skew", type=float, metavar="S", help="Zipf exponent of how often neurons fire")
    _add_hybrid(parser)
    group.add_argument("--enable-lora", action="store_true", default=None, help="every request has a LoRA adapter")
    group.add_argument("--max-loras", type=int, metavar="N", help="adapters in device memory (default 1)")
    group.add_argument("--max-lora-rank", type=int, metavar="R", help="their rank (default 16)")
    group.add_argument(
        "--num-loras", type=int, metavar="N", help="adapters that requests ask for (default --max-loras)"
    )
    group.add_argument("--lora-skew", type=float, metavar="S", help="Zipf exponent of their popularity (default 0)")
    group.add_argument("--lora-ranks", metavar="R,R", help="ranks of the adapters in turn (default: all the largest)")
    group.add_argument("--lora-dtype", metavar="NAME", help="auto (16 bits), fp8, int8, int4, int2, int1")
    group.add_argument("--lora-target-modules", metavar="NAME", help="projections with adapters: all, attention, mlp")
    group.add_argument(
        "--lora-loading", metavar="HOW", help="from host memory into slots (vLLM) or paged with the KV cache (S-LoRA)"
    )
    group.add_argument(
        "--lora-shared-kv", action="store_true", default=None, help="cached prefixes serve all adapters (LRAgent)"
    )


def _add_hybrid(parser: argparse.ArgumentParser) -> None:
    """Experts in a cache, attention where the KV cache lives."""
    group = parser.add_argument_group("experts and attention outside the device (docs/offload.md)")
    group.add_argument("--expert-cache-gb", type=float, metavar="GIB", help="routed experts that a device holds")
    group.add_argument("--expert-cache-size", type=int, metavar="N", help="the same, in experts of each layer")
    group.add_argument("--expert-cache-eviction", metavar="ORDER", help="which leave first: lru (default), lfu, fifo")
    group.add_argument("--expert-cache-trace", metavar="FILE", help="routing trace for the popularity of experts")
    group.add_argument("--expert-prefetch", metavar="WHEN", help="layer: one ahead; attention: routed in front of it")
    group.add_argument("--expert-prefetch-accuracy", type=float, metavar="SHARE", help="of what is missing (default 1)")
    group.add_argument(
        "--attention-device", metavar="NAME", help="decode attention and its KV: cpu, or drives such as instcsd:2"
    )
    group.add_argument("--attention-device-gb", type=float, metavar="GIB", help="room for KV there, per device")
    group.add_argument(
        "--attention-device-serial", action="store_true", default=None, help="devices wait for it and it for them"
    )
