"""How many copies of its operands a kernel cycles through, so that each call finds them in memory, not in a cache."""

from __future__ import annotations

from simulator.kernel_runner.backend import DeviceFacts, Unsupported

COLD_CACHES = 2.5
"""Copies fill this many times the last-level cache before the first one is read again: replacement is not exactly
least-recently-used, so that twice is not quite enough."""
MOST_COPIES = 256
DEFAULT_CACHE_BYTES = 64 << 20
"""For devices that do not tell: as large as the L2 cache of any GPU but the largest."""
LARGEST_SHARE = 0.4
"""Of the device's memory that one kernel's operands may fill."""


def copies(operand_bytes: float, facts: DeviceFacts) -> int:
    """Copies of operands of this size. Raises Unsupported when even one does not fit."""
    if facts.memory_bytes and operand_bytes > LARGEST_SHARE * facts.memory_bytes:
        raise Unsupported(f"needs {operand_bytes / 1e9:.1f} GB, more than {LARGEST_SHARE:.0%} of the device's memory")
    cold_bytes = COLD_CACHES * (facts.cache_bytes or DEFAULT_CACHE_BYTES)
    return int(min(MOST_COPIES, max(1, -(-cold_bytes // max(1.0, operand_bytes)))))
