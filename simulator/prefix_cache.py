"""Prefix cache of one replica: which pieces of prompts are still in KV memory, and who holds them."""

from __future__ import annotations

from simulator.kv_tiers import History, Key, Lru, Order
from simulator.request import Request, RequestView


class PrefixCache:
    """Pieces ("segments") of token streams, held by running requests or kept until their blocks are needed.

    A segment is as long as the trace's prefix ids say (16 to 512 tokens), rounded down to whole KV blocks; the ragged end
    of a prompt is shared only with prompts that end in the same block. Segments that
    nobody holds are evicted least recently used first, the tail of a prompt before its head, as vLLM does. Blocks that
    were freed without an identity are taken to be reused before any cached one; vLLM interleaves both by age, so a real
    cache under pressure can hold somewhat less.
    """

    __slots__ = ("block_size", "evictable_blocks", "held", "held_blocks", "idle", "segment_blocks", "segment_tokens")

    def __init__(self, block_size: int, segment_tokens: int) -> None:
        self.block_size = block_size
        self.segment_tokens = segment_tokens
        self.segment_blocks = segment_tokens // block_size
        self.held: dict[Key, list[int]] = {}
        """key -> [holders, blocks]."""
        self.idle: Order = Lru(History())
        """key -> blocks, least recently used first."""
        self.held_blocks = 0
        self.evictable_blocks = 0

    def pieces(self, request: Request) -> list[tuple[Key, int]]:
        """Keys and whole KV blocks of the segments of a request, the last piece of its prompt and what follows by their ids
        and blocks. Worked out once: a request meets caches of one block size only."""
        known = request.pieces
        if known is None:
            whole, prefix = request.input_tokens // self.segment_tokens, request.prefix
            blocks = self.segment_blocks
            known = [(segment, blocks) for segment in prefix[:whole]]
            blocks = (request.input_tokens - whole * self.segment_tokens) // self.block_size
            for segment in prefix[whole:]:
                known.append(((segment, blocks), blocks))
                blocks = 0
            request.pieces = known
        return known

    def match(self, request: Request) -> tuple[int, int, int, int]:
        """Longest cached prefix of the prompt: (segments, tokens to skip, tokens in the segments, idle blocks among them).

        At least one prompt token is always left to compute, and a block is skipped whole or not at all.
        """
        tokens = idle_blocks = index = 0
        size, held, idle = self.block_size, self.held, self.idle
        limit = (request.input_tokens - 1) // size * size
        for key, blocks in self.pieces(request):
            if tokens >= limit:
                break
            if key not in held:
                if key not in idle:
                    break
                idle_blocks += blocks
            tokens += blocks * size
            index += 1
        return index, min(tokens, limit), tokens, idle_blocks

    def tokens_by_tier(self, request: RequestView) -> tuple[int, ...]:
        """Tokens of the prompt in device memory, from its start on."""
        assert isinstance(request, Request)
        return (self.match(request)[1],)

    def hold(self, key: Key, blocks: int) -> None:
        """Take a reference to a segment of ``blocks`` blocks."""
        entry = self.held.get(key)
        if entry is not None:
            entry[0] += 1
            return
        self.evictable_blocks -= self.idle.pop(key, 0)
        self.held[key] = [1, blocks]
        self.held_blocks += blocks

    def hold_first(self, request: Request, segments: int) -> None:
        """Take references to the first ``segments`` (matched) segments of a request being admitted."""
        for key, blocks in self.pieces(request)[:segments]:
            self.hold(key, blocks)
        request.segments_held = segments

    def register(self, request: Request, computed: int) -> int:
        """Give identities to the prompt segments that are complete once ``computed`` prompt tokens are.

        Returns the tokens that thereby move from the request's private blocks into shared ones.
        """
        moved = 0
        index, size, inputs = request.segments_held, self.segment_tokens, request.input_tokens
        for key, blocks in self.pieces(request)[index:]:
            if min((index + 1) * size, inputs) > computed or blocks <= 0:
                break
            self.hold(key, blocks)
            moved += blocks * self.block_size
            index += 1
        request.segments_held = index
        return moved

    def release(self, request: Request, stream_tokens: int = 0) -> None:
        """Drop all references, tail first; of a finished request (``stream_tokens`` of it are cached) keep the output's
        whole segments, too, the one in which the prompt ended among them."""
        whole = min(len(request.prefix), stream_tokens // self.segment_tokens)
        in_prompt = min(request.segments_held, request.input_tokens // self.segment_tokens)
        for index in range(whole - 1, in_prompt - 1, -1):
            self._keep(request.prefix[index])
        pieces, held, idle = self.pieces(request), self.held, self.idle
        for index in range(request.segments_held - 1, -1, -1):
            key, blocks = pieces[index]
            entry = held[key]
            entry[0] -= 1
            if entry[0] == 0:
                del held[key]
                self.held_blocks -= blocks
                if index < in_prompt or index >= whole:
                    self.evictable_blocks += blocks
                    idle[key] = blocks
        request.segments_held = 0

    def _keep(self, segment: int) -> None:
        """A whole segment of a finished request's output becomes the most recently used idle one."""
        if segment not in self.held and self.segment_blocks:
            self.evictable_blocks += self.segment_blocks - self.idle.pop(segment, 0)
            self.idle[segment] = self.segment_blocks

    def shrink(self, free_blocks: int) -> None:
        """Evict idle segments until they fit into the blocks that nobody holds."""
        while self.evictable_blocks > free_blocks:
            _, blocks = self.idle.leave()
            self.evictable_blocks -= blocks
