"""Arguments for mixtures of experts and for the depth and width of layers (docs/moe.md, docs/layers.md)."""

from __future__ import annotations

import argparse


def add_moe(parser: argparse.ArgumentParser) -> None:
    """--moe-parallelism and the like; None, the default of all, is what engines do."""
    group = parser.add_argument_group("mixtures of experts (docs/moe.md)")
    group.add_argument("--zero-expert-num", type=int, metavar="N", help="experts without computation, per MoE layer")
    group.add_argument(
        "--zero-expert-tau", type=float, metavar="TAU", help="preference for experts that compute (default 1: none)"
    )
    group.add_argument(
        "--moe-parallelism",
        metavar="WAY",
        help="of experts over replicas: exchange (default), gather-tokens, gather-weights, or adaptive: the quickest per step",
    )
    group.add_argument(
        "--moe-all-to-all",
        metavar="NAME",
        help="hierarchical (default: over nodes once), flat (a message to every rank), adaptive",
    )
    group.add_argument(
        "--a2a-ffn-overlap-degree", type=int, metavar="N", help="pieces of a step whose exchange and experts overlap"
    )
    group.add_argument(
        "--expert-capacity-factor",
        type=float,
        metavar="C",
        help="slots of every expert over its mean load, padded; 0: as many as the busiest needs (default: no slots)",
    )
    group.add_argument("--moe-kernels", type=int, metavar="N", help="kernels of an MLP of experts (default 3)")
    group.add_argument(
        "--moe-dispatch",
        metavar="NAME",
        help="tokens into slots: sorted (default), or one-hot, by products with a mask",
    )
    group.add_argument(
        "--expert-routing",
        metavar="FILE|generated",
        help="recorded routing (.npz, .parquet), or 'generated(skew=1.4,affinity=1,tokens=8192,drift=0,seed=0)'",
    )
    group.add_argument(
        "--init-expert-location", metavar="FILE", help="placement of the experts (.json of 'apex-sim experts --out')"
    )
    group.add_argument(
        "--expert-exchange", metavar="NAME", help="home (default: tokens return after each layer) or onward (ExFlow)"
    )
    group.add_argument(
        "--expert-adapters", type=int, metavar="N", help="adapters that own copies of some experts, one per request"
    )
    group.add_argument("--expert-adapter-size", type=float, metavar="E", help="experts per layer that an adapter owns")
    group.add_argument(
        "--expert-adapter-share",
        type=float,
        metavar="SHARE",
        help="choices that reach them (default: E of all experts)",
    )
    group.add_argument(
        "--expert-adapter-skew", type=float, metavar="S", help="Zipf exponent of the adapters' popularity"
    )


def add_shape(parser: argparse.ArgumentParser) -> None:
    """--skip-layers and the like; None, the default of all, is the model as it is."""
    group = parser.add_argument_group("depth and width of layers (docs/layers.md)")
    group.add_argument("--skip-layers", type=int, metavar="N", help="layers left out, spread over the model")
    group.add_argument(
        "--recursion-depths", metavar="SHARES", help="tokens that stop after each pass of shared layers, as 0.4,0.3,0.3"
    )
    group.add_argument("--recursion-kv", metavar="NAME", help="cached (default: per pass) or shared (the first pass's)")
    group.add_argument(
        "--linear-rank",
        type=float,
        metavar="R",
        help="linear layers as two factors of rank R; below 1: with that share of the weights",
    )
    group.add_argument(
        "--weight-sparsity", type=float, metavar="SHARE", help="weights of linear layers that are zero (CPUs)"
    )
    group.add_argument("--active-channels", type=int, metavar="K", help="channels of dense MLPs that a token uses")
