"""Settings that change the depth and width of a model's layers: skipped and repeated layers, low rank, sparse weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from hardware_profiles.errors import UserError, unknown_name

RecursionKv = Literal["cached", "shared"]
"""cached: every recursion caches the tokens that reach it, and attends to those; shared: all read the first one's cache
(Mixture-of-Recursions, arXiv:2507.10524, section 2.2.2)."""

SHAPE_SETTINGS = (
    "skip_layers",
    "recursion_depths",
    "recursion_kv",
    "linear_rank",
    "weight_sparsity",
    "active_channels",
)
"""All of them, by name."""
SHAPE_NUMBERS: dict[str, tuple[type, float]] = {
    "skip_layers": (int, 0),
    "linear_rank": (float, 0),
    "weight_sparsity": (float, 0),
    "active_channels": (int, 1),
}
"""Those that are numbers: their type and smallest value."""


class ShapeSettings(TypedDict, total=False):
    """None or absent: the model as it is."""

    skip_layers: int | None
    recursion_depths: str | None
    recursion_kv: str | None
    linear_rank: float | None
    weight_sparsity: float | None
    active_channels: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """What is on; the defaults change nothing."""

    skip_layers: int = 0
    """Layers that are left out, spread evenly over the model."""
    recursion_depths: tuple[float, ...] = ()
    """Share of the tokens that leave after the first, second ... pass through a shared block of layers; they sum to 1."""
    recursion_kv: RecursionKv = "cached"
    linear_rank: float | None = None
    """Rank of the factors of linear layers; below 1: as a share of mn / (m + n), where factors have as many weights."""
    weight_sparsity: float = 0.0
    """Share of the weights of linear layers that are zero, anywhere."""
    active_channels: int | None = None
    """Channels of a dense MLP that a token uses, chosen by its gate."""

    @property
    def reached(self) -> tuple[float, ...]:
        """Share of the tokens that reach each recursion."""
        depths = self.recursion_depths
        return tuple(math.fsum(depths[index:]) if index else 1.0 for index in range(len(depths)))


PLAIN_SHAPE = LayerShape()


def shape_labels(shape: LayerShape) -> list[str]:
    """What is on, as short as a command line has it."""
    labels = []
    if shape.skip_layers:
        labels.append(f"skip-layers={shape.skip_layers}")
    if shape.recursion_depths:
        depths = ",".join(f"{share:g}" for share in shape.recursion_depths)
        labels.append(f"recursion-depths={depths}({shape.recursion_kv} KV)")
    if shape.linear_rank is not None:
        labels.append(f"linear-rank={shape.linear_rank:g}")
    if shape.weight_sparsity:
        labels.append(f"weight-sparsity={shape.weight_sparsity:g}")
    if shape.active_channels is not None:
        labels.append(f"active-channels={shape.active_channels}")
    return labels


def _depths(text: object) -> tuple[float, ...]:
    """Shares of the tokens by depth, from '0.4,0.3,0.3'."""
    wrong = (
        f"--recursion-depths is {text!r}; give the share of tokens that stop after each pass, for example 0.4,0.3,0.3"
    )
    if not isinstance(text, str):
        raise UserError(wrong)
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(wrong) from None
    if len(shares) < 2 or not all(math.isfinite(share) and share >= 0 for share in shares):
        raise UserError(f"{wrong} (at least two, none negative)")
    if shares[-1] == 0:
        raise UserError(f"--recursion-depths {text}: nobody stays to the last pass; leave the zero at the end out")
    if abs(math.fsum(shares) - 1.0) > 1e-6:
        raise UserError(f"--recursion-depths {text}: the shares sum to {math.fsum(shares):g}; they must sum to 1")
    return shares


def shape_of(settings: Mapping[str, Any]) -> LayerShape:
    """What settings ask for. UserError for values and combinations that make no sense."""
    depths, kv = settings.get("recursion_depths"), settings.get("recursion_kv")
    if kv is not None and depths is None:
        raise UserError("--recursion-kv without recursion; add --recursion-depths SHARES")
    if kv is not None and kv not in get_args(RecursionKv):
        raise unknown_name("recursion kv", str(kv), get_args(RecursionKv))
    shape = LayerShape(
        skip_layers=settings.get("skip_layers") or 0,
        recursion_depths=() if depths is None else _depths(depths),
        recursion_kv=kv or "cached",
        linear_rank=settings.get("linear_rank"),
        weight_sparsity=settings.get("weight_sparsity") or 0.0,
        active_channels=settings.get("active_channels"),
    )
    if shape.weight_sparsity >= 1:
        raise UserError(
            f"--weight-sparsity is {shape.weight_sparsity:g}; some weights must stay: below 1, such as 0.75"
        )
    if shape.linear_rank == 0:
        raise UserError(
            "--linear-rank is 0; give a rank such as 256, or below 1 a share of the weights, for example 0.5"
        )
    if shape.linear_rank is not None and shape.linear_rank > 1 and shape.linear_rank % 1:
        raise UserError(f"--linear-rank is {shape.linear_rank:g}; a rank of 1 or more is a whole number")
    _check_together(shape, settings)
    return shape


def _check_together(shape: LayerShape, settings: Mapping[str, Any]) -> None:
    """Combinations whose cost is not known."""
    if shape.linear_rank is not None:
        for name in ("enable_lora", "activation_sparsity", "active_channels"):
            if settings.get(name):
                raise UserError(f"--linear-rank and --{name.replace('_', '-')} both change the same matrices; drop one")
    if shape.active_channels is not None and settings.get("activation_sparsity"):
        raise UserError("--active-channels and --activation-sparsity both choose neurons of an MLP; drop one")
    if shape.recursion_depths:
        for name in ("enable_lora", "cpu_offload_gb", "expert_cache_gb", "expert_cache_size"):
            if settings.get(name):
                raise UserError(
                    f"--recursion-depths and --{name.replace('_', '-')} do not work together: weights of a shared block "
                    "are used several times in a step; drop one"
                )
