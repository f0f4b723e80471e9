"""What a model asks of an engine: whole inputs for encoders, no cached prefixes of states, one pass for pooling."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.errors import UserError, unknown_name
from simulator.engine import EngineProfile
from simulator.techniques import NONE, technique_labels
from workloads.model import ModelSpec
from workloads.trace import Trace

if TYPE_CHECKING:
    from simulator.deployment import Deployment

RUNNERS = ("auto", "generate", "pooling")
"""vLLM's --runner: generate tokens, or answer with one pass over the input (embeddings, scores, classes)."""
CUTTING = ("chunked", "prefill-priority", "prefill-priority-mixed")
"""Batching policies that cut prompts into pieces."""
WHOLE = "in-flight"
"""The policy that takes their place for encoders: whole inputs join what runs, within the token budget of a step."""


def served_as(model: ModelSpec, runner: str | None) -> ModelSpec:
    """The model as a runner serves it: a decoder that only pools has no LM head. UserError where it cannot."""
    asked = runner or "auto"
    if asked not in RUNNERS:
        raise unknown_name("runner", asked, RUNNERS)
    if asked == "generate" and model.pooling:
        raise UserError(f"--runner generate: {model.name} is an encoder and generates nothing; use --runner pooling")
    if asked != "pooling" or model.pooling:
        return model
    if model.encoder is not None:
        raise UserError(f"--runner pooling: {model.name} is an encoder-decoder model; use an encoder or a decoder")
    return dataclasses.replace(model, pooling=True, tie_word_embeddings=True)


def has_encoder(model: ModelSpec) -> bool:
    """True when inputs must be computed whole."""
    return model.encoder is not None or any(g.attention.bidirectional for g in model.layers)


def has_states(model: ModelSpec) -> bool:
    """True for models with state-space layers, or with nothing but recurrent states."""
    nothing_else = not any(g.attention.reads_context for g in model.layers)
    return nothing_else or any(g.attention.ssm is not None for g in model.layers)


def engine_for(model: ModelSpec, engine: EngineProfile, settings: Mapping[str, Any]) -> EngineProfile:
    """The engine with its defaults changed where the architecture needs it; what the user asked for stays, to be refused."""
    changes: dict[str, Any] = {}
    if engine.prefix_caching and settings.get("enable_prefix_caching") is None and _no_prefixes(model):
        changes["prefix_caching"] = False
    if has_encoder(model) and engine.batching in CUTTING and settings.get("batching") is None:
        changes["batching"] = WHOLE
    return dataclasses.replace(engine, **changes) if changes else engine


def _no_prefixes(model: ModelSpec) -> str | None:
    """Why cached prefixes are of no use, or None."""
    if has_encoder(model):
        return "every token of its encoder depends on the whole input"
    if has_states(model):
        return "its recurrent layers keep their latest state, not that after a prefix"
    return None


def check_architecture(deployment: Deployment) -> None:
    """UserError, in one line, for settings that make no sense with the model's architecture."""
    model, engine = deployment.model, deployment.engine
    reason = _no_prefixes(model)
    if engine.prefix_caching and reason:
        raise UserError(f"--enable-prefix-caching: {model.name} has no prefixes to reuse: {reason}. Drop it")
    if deployment.speculative is not None and (has_states(model) or model.pooling or model.encoder is not None):
        why = (
            "it generates nothing"
            if model.pooling
            else "rejected drafts would need the states of every draft token"
            if has_states(model)
            else "drafts for encoder-decoder models are not modelled"
        )
        raise UserError(f"--speculative-config does not go with {model.name}: {why}. Drop it")
    if has_encoder(model):
        _check_encoder(deployment)
    if has_states(model):
        _check_states(deployment)


def _check_encoder(deployment: Deployment) -> None:
    model, engine, plan = deployment.model, deployment.engine, deployment.plan
    if engine.batching in CUTTING:
        raise UserError(
            f"--batching {engine.batching} cuts inputs into pieces, which {model.name}'s encoder cannot compute; use "
            f"{WHOLE}, prefill-first, orca or static"
        )
    if plan.pp > 1 and model.encoder is not None:
        raise UserError(
            f"pp={plan.pp}: pipelines of encoder-decoder models ({model.name}) are not modelled; use tp or dp"
        )
    techniques = plan.techniques
    if model.encoder is None:  # fewer layers and low-rank factors have changed the model itself
        shape = dataclasses.replace(techniques.shape, skip_layers=0, linear_rank=None)
        techniques = dataclasses.replace(techniques, shape=shape)
    if techniques != NONE:
        labels = ", ".join(technique_labels(techniques)) or "this technique"
        raise UserError(f"{labels} is not modelled for {model.name}, which has an encoder; drop it")
    if engine.nano_batch_tokens:
        raise UserError(f"--nano-batch-tokens is not modelled for {model.name}, which has an encoder; drop it")


def _check_states(deployment: Deployment) -> None:
    model, techniques = deployment.model, deployment.plan.techniques
    if deployment.engine.preemption == "swap":
        raise UserError(
            f"--preemption-mode swap moves KV blocks; the states of {model.name} cannot follow. Use --preemption-mode recompute"
        )
    if any(g.attention.reads_context for g in model.layers):
        return
    for name, on in (
        ("--attention-density or --attention-top-k", techniques.attention is not None),
        ("--kv-compression", techniques.kv_compression != 1.0),
        ("--attention-device", techniques.attention_device is not None),
        ("--recursion-depths", bool(techniques.shape.recursion_depths)),
    ):
        if on:
            raise UserError(f"{name} is about attention to cached tokens; {model.name} has none: drop it")


def check_pools(model: ModelSpec) -> None:
    """UserError for architectures that prefill and decode pools cannot share."""
    if model.pooling:
        raise UserError(f"--disaggregate: {model.name} answers in one pass; there is nothing to decode elsewhere")
    if model.encoder is not None:
        raise UserError(
            f"--disaggregate: prefill and decode pools of encoder-decoder models ({model.name}) are not modelled"
        )


def in_one_pass(model: ModelSpec, trace: Trace) -> Trace:
    """The trace as a model that pools sees it: one answer per request, counted as one output token."""
    if not model.pooling or (trace.output_tokens == 1).all():
        return trace
    return dataclasses.replace(trace, output_tokens=np.ones_like(trace.output_tokens))


def check_inputs(model: ModelSpec, trace: Trace) -> None:
    """UserError for inputs longer than the positions of an encoder."""
    limit = None if model.encoder is None else model.encoder.max_positions
    longest = int(trace.input_tokens.max()) if len(trace) else 0
    if limit is not None and longest > limit:
        raise UserError(
            f"{trace.name}: the longest input has {longest:,} tokens, the encoder of {model.name} {limit:,} positions; "
            f"send at most that many (--input-len {limit})"
        )
