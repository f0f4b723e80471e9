"""What offloaded weights cost a step beyond the kernels: read or copied over the host link, or computed by the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from simulator.physics.cost import Cost
from simulator.physics.layout import RankLayer, RankMatrix, StageLayout
from simulator.physics.moe import expert_probabilities
from simulator.physics.offload import OffloadPath, mlp_bytes, offloaded_bytes
from simulator.physics.sums import in_order
from simulator.plan import ParallelPlan

BUCKETS = 1024
"""Groups of equally frequent neurons that stand for those of an MLP."""
PREDICTOR_SHARE = 0.07
"""What predicts the neurons that fire, over the weights of the MLPs: about 7 % in PowerInfer (arXiv:2312.12456); it stays on
the device."""


@lru_cache(maxsize=4096)
def _fired(sparsity: float, skew: float, hot: float, tokens: float) -> tuple[float, float, float]:
    """(hot, cold, cold work): shares of all neurons that ``tokens`` tokens fire, by where they are, and the cold ones' share
    of the work of a token.

    Popularity falls as rank^-skew with a mean of 1 - sparsity and no neuron above 1; tokens fire neurons independently, so
    neuron i fires in a batch with 1 - (1 - p_i)^n. The hottest share ``hot`` is on the device.
    """
    if not skew or not sparsity:
        fired = 1.0 - sparsity**tokens
        return hot * fired, (1.0 - hot) * fired, (1.0 - hot) * (1.0 - sparsity)
    each = expert_probabilities(BUCKETS, max(1, round((1.0 - sparsity) * BUCKETS)), skew)
    here = np.clip(hot * BUCKETS - np.arange(BUCKETS), 0.0, 1.0)
    touched = 1.0 - (1.0 - each) ** tokens
    cold = 1.0 - here
    return float((here * touched).mean()), float((cold * touched).mean()), float((cold * each).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Neurons:
    """Which neurons of the dense MLPs fire, and where they are."""

    sparsity: float
    """Share that a token leaves at zero."""
    skew: float
    hot: float
    """Share on the device, the most frequent ones; 1: all."""

    def fired(self, tokens: float) -> tuple[float, float, float]:
        """(on the device, on the host, the host's share of a token's work), of all neurons."""
        return _fired(self.sparsity, self.skew, self.hot, tokens)


def neurons_of(stage: StageLayout, plan: ParallelPlan) -> Neurons | None:
    """Neurons of a stage, or None where all of them are used on the device."""
    on = plan.techniques
    split = on.offload is not None and on.offload.backend == "cpu-neurons"
    if not split and not on.activation_sparsity:
        return None
    total = mlp_bytes(stage)
    hot = 1.0 - min(1.0, offloaded_bytes(stage, plan) / total) if split and total else 1.0
    return Neurons(sparsity=on.activation_sparsity, skew=on.activation_skew, hot=hot)


def predictor_bytes(stage: StageLayout, plan: ParallelPlan) -> float:
    """Memory of what predicts the neurons of a stage, on one rank [B]; only where the host computes some of them."""
    on = plan.techniques
    split = on.offload is not None and on.offload.backend == "cpu-neurons"
    return PREDICTOR_SHARE * mlp_bytes(stage) if split and on.activation_sparsity else 0.0


def offload_costs(
    path: OffloadPath,
    share: float,
    layer: RankLayer,
    count: int,
    tokens: int,
    stored: Sequence[float],
    kernels: Sequence[Cost],
    neurons: Neurons | None,
    whole: Sequence[Cost],
    bandwidth_bytes_per_s: float,
) -> list[Cost]:
    """Costs of ``count`` equal blocks of which a ``share`` is offloaded whole.

    ``stored``: bytes of one block that the batch needs, kernel by kernel; ``kernels``: their costs on the device; ``whole``:
    those of the MLP with all neurons that fire on the device.
    """
    if path.backend == "uva":
        return [_host_reads(path, share, count, stored, kernels)]
    if path.backend == "blocking":
        nbytes = share * count * layer.weight_bytes
        return [Cost("weights.copies", nbytes / path.bandwidth_bytes_per_s, "link", link_bytes=nbytes)]
    if path.backend == "cpu-layers":
        return [_host_layers(path, share, count, stored, kernels)]
    if path.backend == "cpu-neurons":
        assert neurons is not None
        return _host_neurons(path, layer.matrices, count, tokens, kernels, neurons, whole, bandwidth_bytes_per_s)
    return []


def _host_reads(path: OffloadPath, share: float, count: int, stored: Sequence[float], kernels: Sequence[Cost]) -> Cost:
    """What kernels wait for weights that they read over the host link themselves: bytes / link beyond their own time."""
    whole = share * count
    read_s = [whole * nbytes / path.bandwidth_bytes_per_s for nbytes in stored]
    extra_s = in_order(max(0.0, s - share * kernel.seconds) for s, kernel in zip(read_s, kernels, strict=True))
    return Cost("weights.host_reads", extra_s, "link", link_bytes=whole * in_order(stored))


def _host_layers(path: OffloadPath, share: float, count: int, stored: Sequence[float], kernels: Sequence[Cost]) -> Cost:
    """Blocks that the host computes while the device waits, less what they would take on the device.

    For many tokens copying the weights and computing on the device is faster (as llama.cpp does for prompts); the faster of
    both counts. Attention over the cache stays on the device.
    """
    assert path.host is not None
    nbytes, here_s = share * count * in_order(stored), share * in_order(k.seconds for k in kernels)
    host_s = path.host.seconds(nbytes, share * in_order(k.flop for k in kernels))
    copied_s = max(nbytes / path.bandwidth_bytes_per_s, here_s)
    return Cost("weights.cpu", max(0.0, min(host_s, copied_s) - here_s), "host")


def _host_neurons(
    path: OffloadPath,
    matrices: Sequence[RankMatrix],
    count: int,
    tokens: int,
    kernels: Sequence[Cost],
    neurons: Neurons,
    whole: Sequence[Cost],
    bandwidth_bytes_per_s: float,
) -> list[Cost]:
    """What the device waits for the neurons that the host computes at the same time: cold bytes / DRAM beyond its own MLP.

    Two messages over the host link per block bring inputs and results. For many tokens the cold neurons are copied instead and
    the device computes them too: max(cold bytes / link, whole MLP). A host whose FLOP/s are not known takes as long as the
    device would for the whole MLP at least: its arithmetic is not for nothing.
    """
    assert path.host is not None
    mlp = [(m, k.seconds) for m, k in zip(matrices, kernels, strict=False) if m.name.startswith("mlp.")]
    total = count * in_order(m.weight_bytes for m, _ in mlp)
    if not total:
        return []
    _, cold, work = neurons.fired(tokens)
    flop = 2.0 * tokens * work * count * in_order(m.n * m.k for m, _ in mlp)
    predictor = PREDICTOR_SHARE * total if neurons.sparsity else 0.0
    predictor_s = predictor / bandwidth_bytes_per_s
    costs = [Cost("mlp.predictor", predictor_s, "memory", nbytes=predictor)] if predictor else []
    if not cold:
        return costs
    here_s, whole_s = (predictor_s + in_order(times) for times in ((s for _, s in mlp), (c.seconds for c in whole)))
    host_s = path.host.seconds(cold * total, flop) + 2 * count * path.start_s
    if path.host.flop_per_s is None:
        host_s = max(host_s, whole_s)
    copied_s = max(cold * total / path.bandwidth_bytes_per_s, whole_s)
    if max(host_s, here_s) <= copied_s:
        return [*costs, Cost("weights.cpu", max(0.0, host_s - here_s), "host")]
    here = [k for m, k in zip(matrices, kernels, strict=False) if m.name.startswith("mlp.")]
    copies = Cost(
        "weights.copies",
        max(0.0, copied_s - here_s),
        "link",
        peak_s=in_order(c.peak_s for c in whole) - in_order(k.peak_s for k in here),
        flop=in_order(c.flop for c in whole) - in_order(k.flop for k in here),
        nbytes=in_order(c.nbytes for c in whole) - in_order(k.nbytes for k in here),
        link_bytes=cold * total,
    )
    return [*costs, copies]
