"""State-space mixers (Mamba 1 and Mamba 2): what one layer holds, keeps per sequence and computes per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SCAN_FLOP_PER_STATE = 9
"""Mamba 1, per element of state and token: discretise (product and exponential), decay, input (two products, one sum), output
(product and sum) and the skip path, as the authors count the selective scan (state-spaces/mamba; from memory)."""
UPDATE_FLOP_PER_STATE = 5
"""Mamba 2, one token: decay, rank-one input (product and sum), output (product and sum); the decay is one number per head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SsmSpec:
    """One selective state-space layer.

    Mamba 1: Gu and Dao, arXiv:2312.00752, section 3. Mamba 2: Dao and Gu, arXiv:2405.21060, sections 6 and 7.
    """

    version: Literal[1, 2]
    inner: int
    """Channels of the recurrence: expand x hidden, or heads x head width."""
    state: int
    """State elements per channel (N)."""
    heads: int
    """Heads that share a decay; Mamba 1 has a decay per channel and state element, and counts its channels here."""
    groups: int
    """Groups that share B and C, like the KV heads of attention; Mamba 1 has one."""
    conv_kernel: int
    """Taps of the causal convolution before the recurrence."""
    chunk: int = 256
    """Mamba 2: tokens of a prompt computed as one block of matrix products (``chunk_size``)."""
    dt_rank: int = 0
    """Mamba 1: width of the projection to the step sizes."""

    @property
    def conv_channels(self) -> int:
        """Channels that pass the convolution: x, and in Mamba 2 also B and C."""
        return self.inner + (2 * self.groups * self.state if self.version == 2 else 0)

    @property
    def conv_elements(self) -> int:
        """Last inputs of the convolution that a sequence keeps [elements]."""
        return self.conv_channels * (self.conv_kernel - 1)

    @property
    def recurrent_elements(self) -> int:
        """State of the recurrence that a sequence keeps [elements]."""
        return self.inner * self.state

    @property
    def update_flop(self) -> float:
        """FLOP of the convolution and the recurrence of one token, without the projections."""
        per_state = SCAN_FLOP_PER_STATE if self.version == 1 else UPDATE_FLOP_PER_STATE
        return float(per_state * self.recurrent_elements + 2 * self.conv_kernel * self.conv_channels)

    @property
    def scan_flop(self) -> float:
        """FLOP per prompt token, without the projections.

        Mamba 2 computes a chunk of Q tokens with matrix products: C B^T of every group (2 Q N), its product with x (2 Q per
        channel), the chunk's state and the output of the state before it (2 N per channel each); 2405.21060, section 6.
        """
        if self.version == 1:
            return self.update_flop
        products = 2 * self.chunk * (self.groups * self.state + self.inner) + 4 * self.state * self.inner
        return float(products + 2 * self.conv_kernel * self.conv_channels)

    def scan_bytes(self, element_bytes: float) -> float:
        """Memory traffic per prompt token beside the projections [B].

        The convolution reads and writes its channels; the recurrence reads x, step sizes, B and C and writes y; the gate
        reads y and z and writes. Mamba 2 writes the chunks' states, passes them on and reads them (four passes in float32),
        and writes and reads C B^T.
        """
        moved = 2 * self.conv_channels + 2 * self.inner + 2 * self.groups * self.state + 3 * self.inner
        if self.version == 1:
            return element_bytes * (moved + self.inner)
        states = 4 * 4.0 * self.recurrent_elements / self.chunk + 2 * 4.0 * self.groups * self.chunk
        return element_bytes * moved + states
