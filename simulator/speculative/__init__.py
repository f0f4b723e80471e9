"""Speculative decoding: cheap drafts of the next tokens, verified together in one step of the model."""
