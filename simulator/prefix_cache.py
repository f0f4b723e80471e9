"""Prefix cache of one replica: which pieces of prompts are still in KV memory, and who holds them."""

from __future__ import annotations

from collections import OrderedDict

from simulator.request import Request


class PrefixCache:
    """Pieces ("segments") of token streams, held by running requests or kept until their blocks are needed.

    A segment is as long as the trace's prefix ids say (16 to 512 tokens), rounded down to whole KV blocks; one id with two
    lengths (the ragged end of a prompt, and a longer prompt) is not shared. Segments that
    nobody holds are evicted least recently used first, the tail of a prompt before its head, as vLLM does. Blocks that
    were freed without an identity are taken to be reused before any cached one; vLLM interleaves both by age, so a real
    cache under pressure can hold somewhat less.
    """

    __slots__ = ("block_size", "evictable_blocks", "held", "held_blocks", "idle", "segment_tokens")

    def __init__(self, block_size: int, segment_tokens: int) -> None:
        self.block_size = block_size
        self.segment_tokens = segment_tokens
        self.held: dict[int, list[int]] = {}
        """id -> [holders, blocks]."""
        self.idle: OrderedDict[int, int] = OrderedDict()
        """id -> blocks, least recently used first."""
        self.held_blocks = 0
        self.evictable_blocks = 0

    def segment_blocks(self, index: int, stream_tokens: int) -> int:
        """Whole KV blocks of the index-th segment of a stream of ``stream_tokens`` tokens."""
        begin = index * self.segment_tokens
        return min(self.segment_tokens, stream_tokens - begin) // self.block_size

    def match(self, request: Request) -> tuple[int, int, int, int]:
        """Longest cached prefix of the prompt: (segments, tokens to skip, tokens in the segments, idle blocks among them).

        At least one prompt token is always left to compute, and a block is skipped whole or not at all.
        """
        segments = tokens = idle_blocks = 0
        prompt = request.input_tokens
        limit = (prompt - 1) // self.block_size * self.block_size
        for segment in request.prefix:
            if tokens >= limit:
                break
            entry = self.held.get(segment)
            blocks = entry[1] if entry is not None else self.idle.get(segment, 0)
            if blocks == 0 or blocks != self.segment_blocks(segments, prompt):
                break
            if entry is None:
                idle_blocks += blocks
            tokens += blocks * self.block_size
            segments += 1
        return segments, min(tokens, limit), tokens, idle_blocks

    def hold(self, segment: int, blocks: int) -> int:
        """Take a reference; returns how many blocks that adds to those held (0 when somebody holds them already)."""
        entry = self.held.get(segment)
        if entry is not None:
            entry[0] += 1
            return 0
        known = self.idle.pop(segment, None)
        if known is not None:
            self.evictable_blocks -= known
            blocks = known
        self.held[segment] = [1, blocks]
        self.held_blocks += blocks
        return blocks

    def hold_first(self, request: Request, segments: int) -> None:
        """Take references to the first ``segments`` (matched) segments of a request being admitted."""
        for segment in request.prefix[:segments]:
            self.hold(segment, 0)
        request.segments_held = segments

    def register(self, request: Request, computed: int) -> int:
        """Give identities to the prompt segments that are complete once ``computed`` prompt tokens are.

        Returns the tokens that thereby move from the request's private blocks into shared ones.
        """
        moved = 0
        prompt = request.input_tokens
        index = request.segments_held
        while index < len(request.prefix):
            end = min((index + 1) * self.segment_tokens, prompt)
            blocks = self.segment_blocks(index, prompt)
            if end > computed or blocks <= 0:
                break
            segment = request.prefix[index]
            entry = self.held.get(segment)
            if blocks != (entry[1] if entry is not None else self.idle.get(segment, blocks)):
                break
            self.hold(segment, blocks)
            moved += blocks * self.block_size
            index += 1
        request.segments_held = index
        return moved

    def release(self, request: Request, stream_tokens: int | None = None) -> None:
        """Drop all references, tail first; with ``stream_tokens`` also keep the segments of the output (finished request)."""
        if stream_tokens is not None:
            for index in range(len(request.prefix) - 1, request.segments_held - 1, -1):
                blocks = self.segment_blocks(index, stream_tokens)
                segment = request.prefix[index]
                if blocks > 0 and (index + 1) * self.segment_tokens <= stream_tokens and segment not in self.held:
                    self.evictable_blocks += blocks - self.idle.pop(segment, 0)
                    self.idle[segment] = blocks
        for segment in reversed(request.prefix[: request.segments_held]):
            entry = self.held[segment]
            entry[0] -= 1
            if entry[0] == 0:
                del self.held[segment]
                self.held_blocks -= entry[1]
                self.evictable_blocks += entry[1]
                self.idle[segment] = entry[1]
        request.segments_held = 0

    def shrink(self, free_blocks: int) -> None:
        """Evict idle segments until they fit into the blocks that nobody holds."""
        while self.evictable_blocks > free_blocks:
            _, blocks = self.idle.popitem(last=False)
            self.evictable_blocks -= blocks
