"""Prompt tokens of a replica's unfinished requests, those that several of them share counted once."""

from __future__ import annotations

from simulator.request import RequestView


class ActivePrompts:
    """Pieces of prompts in use. A router that knows prompts by their blocks counts each block of a replica once, however
    many requests hold it (NVIDIA Dynamo's router does: ActiveSequences in
    https://github.com/ai-dynamo/dynamo/tree/main/lib/llm/src/kv_router)."""

    def __init__(self, piece_tokens: int) -> None:
        self._piece_tokens = piece_tokens
        self._held: dict[int, list[int]] = {}
        """Piece -> [holders, tokens]."""
        self.tokens = 0
        """Tokens of all pieces, and of what no piece names."""

    def _pieces(self, request: RequestView) -> tuple[list[tuple[int, int]], int]:
        """(piece, tokens) of a prompt, and its tokens behind them."""
        left, found = request.input_tokens, []
        for piece in request.prompt_ids:
            tokens = min(self._piece_tokens, left)
            found.append((piece, tokens))
            left -= tokens
        return found, left

    def add(self, request: RequestView) -> None:
        """A request was sent there."""
        pieces, left = self._pieces(request)
        self.tokens += left
        for piece, tokens in pieces:
            held = self._held.get(piece)
            if held is None:
                self._held[piece] = [1, tokens]
                self.tokens += tokens
            else:
                held[0] += 1

    def remove(self, request: RequestView) -> None:
        """It is done."""
        pieces, left = self._pieces(request)
        self.tokens -= left
        for piece, _ in pieces:
            held = self._held[piece]
            held[0] -= 1
            if not held[0]:
                self.tokens -= self._held.pop(piece)[1]

    def with_(self, request: RequestView) -> int:
        """Tokens, if this request were sent there too. Asked of every replica for every request."""
        ids, held = request.prompt_ids, self._held
        whole, rest = divmod(request.input_tokens, self._piece_tokens)
        shared = self._piece_tokens * sum(map(held.__contains__, ids[:whole]))
        if len(ids) > whole and ids[whole] in held:
            shared += rest
        return self.tokens + request.input_tokens - shared
