"""A model whose layers a technique changes: fewer of them, linear layers as low-rank factors, a wider router."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hardware_profiles.errors import UserError
from simulator.physics.layout import FACTOR
from simulator.techniques import Techniques
from workloads.layers import LayerGroup, Matrix, MlpSpec
from workloads.model import ModelSpec


def changed_model(model: ModelSpec, techniques: Techniques) -> ModelSpec:
    """The model as it is served. UserError for changes that it does not have."""
    shape, zero = techniques.shape, techniques.moe.zero_experts
    if shape.skip_layers:
        model = _shortened(model, shape.skip_layers)
    if shape.linear_rank is not None:
        model = _factored(model, shape.linear_rank)
    if zero:
        model = replace(model, layers=tuple(_wider_router(group, zero) for group in model.layers))
    if shape.recursion_depths and model.num_layers % len(shape.recursion_depths):
        raise UserError(
            f"--recursion-depths has {len(shape.recursion_depths)} shares; the {model.num_layers} layers of {model.name} do "
            "not divide into as many passes through a block"
        )
    if shape.active_channels is not None:
        _check_channels(model, shape.active_channels)
    return model


def _shortened(model: ModelSpec, fewer: int) -> ModelSpec:
    """Without ``fewer`` layers, spread evenly."""
    total = model.num_layers
    if fewer >= total:
        raise UserError(f"--skip-layers is {fewer}; {model.name} has {total} layers, at least one must stay")
    skipped = {(2 * index + 1) * total // (2 * fewer) for index in range(fewer)}
    kept = [group for position, group in enumerate(model.layer_sequence) if position not in skipped]
    used = sorted(set(kept))
    layers = tuple(replace(model.layers[group], count=kept.count(group)) for group in used)
    pattern = tuple(used.index(group) for group in kept) if model.layer_pattern else ()
    return replace(model, layers=layers, layer_pattern=pattern)


def rank_of(matrix: Matrix, rank: float) -> int | None:
    """Rank of a matrix's factors; None where they would have as many weights as the matrix: r >= mn / (m + n).

    Parameters and FLOP become r (m + n) instead of mn (Greenformers, arXiv:2108.10808; PELA, arXiv:2310.10700).
    """
    most = matrix.rows * matrix.cols / (matrix.rows + matrix.cols)
    chosen = max(1, int(most * rank)) if rank < 1 else int(rank)
    return chosen if chosen < most else None


def _factors(matrices: Iterable[Matrix], rank: float) -> tuple[Matrix, ...]:
    """Each matrix as two. Of one split by outputs, every TP rank has the whole inner factor; of one split by inputs, the whole
    outer one, applied to partial sums: neither adds communication."""
    parts = []
    for matrix in matrices:
        r = rank_of(matrix, rank)
        if r is None:
            parts.append(matrix)
        elif matrix.parallel == "row":
            parts.append(replace(matrix, rows=r))
            outer = Matrix(name=matrix.name + FACTOR, rows=matrix.rows, cols=r, parallel="replicated")
            parts.append(outer)
        else:
            parts.append(Matrix(name=matrix.name + FACTOR, rows=r, cols=matrix.cols, parallel="replicated"))
            parts.append(replace(matrix, cols=r))
    return tuple(parts)


def _factored(model: ModelSpec, rank: float) -> ModelSpec:
    """Projections of softmax attention and dense MLPs, shared experts among them; latent attention, state-space layers, routed
    experts, embedding and LM head stay."""
    layers = []
    for group in model.layers:
        attention, mlp = group.attention, group.mlp
        if attention.kind == "gqa":
            attention = replace(attention, matrices=_factors(attention.matrices, rank))
        if mlp.is_moe:
            mlp = replace(mlp, shared_matrices=_factors(mlp.shared_matrices, rank))
        else:
            mlp = replace(mlp, matrices=_factors(mlp.matrices, rank))
        layers.append(replace(group, attention=attention, mlp=mlp))
    if tuple(layers) == model.layers:
        raise UserError(
            f"--linear-rank {rank:g} leaves no linear layer of {model.name} with fewer weights (softmax attention, dense MLPs, "
            "shared experts); use a smaller rank, or a share such as 0.5"
        )
    return replace(model, layers=tuple(layers))


def _wider_router(group: LayerGroup, zero: int) -> LayerGroup:
    """A logit for each expert that computes nothing; its own parameters (a vector, a 2 x hidden gate) are left out."""
    router = group.mlp.router
    if router is None:
        return group
    return replace(group, mlp=replace(group.mlp, router=replace(router, rows=router.rows + zero)))


def _check_channels(model: ModelSpec, channels: int) -> None:
    """UserError unless some dense MLP has more channels."""
    widths = [m.cols for g in model.layers for m in _dense(g.mlp) if m.parallel == "row"]
    if not widths:
        raise UserError(f"--active-channels chooses channels of dense MLPs; {model.name} has none: drop it")
    if not all(any("gate" in m.name for m in mlp.matrices) for g in model.layers if _dense(mlp := g.mlp)):
        raise UserError(f"--active-channels: the gate of an MLP chooses its channels; {model.name} has none: drop it")
    if channels > min(widths):
        raise UserError(f"--active-channels is {channels}; MLPs of {model.name} have {min(widths)} channels: use fewer")


def _dense(mlp: MlpSpec) -> tuple[Matrix, ...]:
    return () if mlp.is_moe else mlp.matrices
