"""Arguments that several subcommands share: the deployment, the workload, the SLO."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim.architecture_options import ARCHITECTURE_SETTINGS, add_architecture
from apex_sim.model_options import add_moe, add_shape
from apex_sim.prompt_options import PROMPT_SETTINGS, add_prompts
from apex_sim.sharing_options import add_sharing
from apex_sim.technique_options import add_techniques
from simulator.moe_settings import MOE_SETTINGS
from simulator.shape_settings import SHAPE_SETTINGS

if TYPE_CHECKING:
    from hardware_profiles.schema import Cluster
    from workloads.trace import Trace

ENGINE_SETTINGS = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_prefill_tokens",
    "batching",
    "gpu_memory_utilization",
    "block_size",
    "max_model_len",
    "num_gpu_blocks_override",
    "kv_cache_dtype",
    "quantization",
    "dtype",
    "enable_prefix_caching",
    "async_scheduling",
    "enforce_eager",
    "max_cudagraph_capture_size",
    "preemption_mode",
    "swap_space",
    "swap_overlap",
    "kv_offloading_size",
    "kv_offloading_disk",
    "kv_offloading_disk_device",
    "kv_eviction",
    "kv_copy_group",
    "routing",
    "scheduling_policy",
    "order",
    "moe_skew",
    "cold_start",
    "interference",
    "sm_split",
    "pair_instances",
    "power_cap",
    "gpu_clock",
    "cpu_offload_gb",
    "offload_backend",
    "offload_source",
    "offload_prefetch_step",
    "comm_overlap",
    "nano_batch_tokens",
    "fused_moe",
    "attention_density",
    "attention_top_k",
    "attention_selection",
    "kv_compression",
    "prompt_layer_shares",
    "activation_sparsity",
    "activation_skew",
    "expert_cache_gb",
    "expert_cache_size",
    "expert_cache_eviction",
    "expert_cache_trace",
    "expert_prefetch",
    "expert_prefetch_accuracy",
    "attention_device",
    "attention_device_gb",
    "attention_device_serial",
    "enable_lora",
    "max_loras",
    "max_lora_rank",
    "num_loras",
    "lora_skew",
    "lora_ranks",
    "lora_dtype",
    "lora_target_modules",
    "lora_loading",
    "lora_shared_kv",
    "speculative_config",
    *ARCHITECTURE_SETTINGS,
    *MOE_SETTINGS,
    *SHAPE_SETTINGS,
)
"""Names of the settings in arguments, API keywords and resolved configuration: the engine's own where it has them."""
TERM_SETTINGS = ("pricing", "usd_per_gpu_hour", "purchase_usd", "lifetime_years", "pue", "grid", "usd_per_kwh")
"""How the cluster is paid for and where it stands."""
WORKLOAD_SETTINGS = ("rate", "input_len", "output_len", "num_requests", "arrival", *PROMPT_SETTINGS)


def add_deployment(parser: argparse.ArgumentParser, *, fixed: bool = True) -> None:
    """--model, --cluster, --engine and the engine's settings; not ``fixed``: no cluster, and the model may be left out."""
    group = parser.add_argument_group("deployment")
    group.add_argument("--model", required=fixed, metavar="NAME", help="Hub name, alias, or path to a config.json")
    if fixed:
        group.add_argument("--cluster", required=True, metavar="SPEC", help="h100-sxm:8, h100-sxm:8x4, or a YAML file")
    group.add_argument(
        "--engine", default="vllm-v1", help="engine profile, of a version if wanted: vllm@0.12, orca, a YAML"
    )
    engine = parser.add_argument_group("engine settings (the engine's own names and defaults)")
    engine.add_argument("--max-num-seqs", type=int, metavar="N", help="most sequences in a step")
    engine.add_argument("--max-num-batched-tokens", type=int, metavar="N", help="token budget of a step")
    engine.add_argument(
        "--max-prefill-tokens", type=int, metavar="N", help="no further prompt joins a step with so many prompt tokens"
    )
    engine.add_argument("--batching", metavar="POLICY", help="chunked, prefill-first, in-flight ... (docs/policies.md)")
    engine.add_argument("--gpu-memory-utilization", type=float, metavar="SHARE", help="share of memory to use")
    engine.add_argument("--block-size", type=int, metavar="TOKENS", help="tokens per KV block")
    engine.add_argument("--max-model-len", type=int, metavar="TOKENS", help="longest request")
    engine.add_argument("--num-gpu-blocks-override", type=int, metavar="N", help="KV blocks, when measured")
    engine.add_argument("--kv-cache-dtype", default="auto", metavar="DTYPE", help="auto or fp8")
    engine.add_argument("--quantization", metavar="METHOD", help="fp8, int8, awq, gptq, mxfp4 ...")
    engine.add_argument("--dtype", default="auto", metavar="DTYPE", help="auto, bfloat16, float16, float32")
    caching = engine.add_mutually_exclusive_group()
    caching.add_argument("--enable-prefix-caching", action="store_true", default=None, help="share prompts' KV blocks")
    caching.add_argument(
        "--no-enable-prefix-caching", dest="enable_prefix_caching", action="store_false", help="do not share them"
    )
    engine.add_argument(
        "--async-scheduling",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="prepare the next step while one runs, or not (default: as the engine)",
    )
    engine.add_argument(
        "--enforce-eager", action="store_true", default=None, help="launch every kernel; no CUDA graphs"
    )
    engine.add_argument(
        "--max-cudagraph-capture-size", type=int, metavar="TOKENS", help="largest step replayed from a CUDA graph"
    )
    engine.add_argument("--preemption-mode", choices=("recompute", "swap"), help="what happens to a preempted request")
    engine.add_argument("--swap-space", type=float, metavar="GIB", help="host memory for swapped KV, per device")
    engine.add_argument("--swap-overlap", type=float, metavar="SHARE", help="share of swapping that steps hide")
    _add_tiers(parser)
    engine.add_argument(
        "--routing",
        default="round-robin",
        metavar="POLICY",
        help="round-robin, random, least-outstanding, jsq-tokens, power-of-two, prefix-affinity, kv-aware, session-affinity; "
        "with parameters as in 'kv-aware(load=2)'",
    )
    engine.add_argument(
        "--scheduling-policy",
        metavar="POLICY",
        help="order of service: fcfs (default), priority, sjf, shortest-prompt, vtc; with parameters as in "
        "'priority(preempt=1)' (docs/scheduling.md)",
    )
    engine.add_argument(
        "--cold-start", action="store_true", default=None, help="servers have just started: MoE kernels compile first"
    )
    engine.add_argument(
        "--speculative-config", metavar="JSON|FILE", help="draft tokens and verify them (docs/speculative.md)"
    )
    engine.add_argument("--moe-skew", type=float, default=0.0, metavar="S", help="Zipf exponent of expert popularity")
    add_techniques(parser)
    add_architecture(parser)
    add_moe(parser)
    add_shape(parser)
    add_sharing(parser)
    power = parser.add_argument_group("power of the devices")
    power.add_argument("--power-cap", type=float, metavar="W", help="power limit per device, as nvidia-smi -pl")
    power.add_argument("--gpu-clock", type=float, metavar="MHZ", help="locked clock, as nvidia-smi -lgc")


def _add_tiers(parser: argparse.ArgumentParser) -> None:
    """Memory below the devices' for cached prefixes."""
    group = parser.add_argument_group("cached prefixes below device memory (docs/prefix_caching.md)")
    group.add_argument("--kv-offloading-size", type=float, metavar="GIB", help="host memory for them, per replica")
    group.add_argument("--kv-offloading-disk", type=float, metavar="GIB", help="disk below it, per replica")
    group.add_argument("--kv-offloading-disk-device", metavar="NAME", help="profile of the disk (default nvme-pcie4)")
    group.add_argument(
        "--order", metavar="ORDER", help="of requests that arrive together: arrival (default) or prefix-groups"
    )
    group.add_argument("--kv-eviction", metavar="ORDER", help="what leaves every tier first: lru (default), lfu, fifo")
    group.add_argument(
        "--kv-copy-group",
        type=int,
        metavar="BLOCKS",
        help="KV blocks per copy over the host link (default: all of a move)",
    )


def add_terms(parser: argparse.ArgumentParser, *, fixed: bool = True) -> None:
    """--pricing and what else turns device-hours and joules into money and emissions; not ``fixed``: of several types of
    device, whose prices have an option of their own."""
    group = parser.add_argument_group("cost and carbon (docs/costs.md)")
    group.add_argument(
        "--pricing", metavar="TERMS", help="on-demand (default), spot, reserved-1y, reserved-3y or owned"
    )
    if fixed:
        group.add_argument(
            "--usd-per-gpu-hour", type=float, metavar="USD", help="rent of a device, instead of the profile's"
        )
        group.add_argument(
            "--purchase-usd", type=float, metavar="USD", help="owned: price of a device with its share of the server"
        )
    group.add_argument(
        "--lifetime-years", type=float, metavar="YEARS", help="over which purchase and manufacture count (default 5)"
    )
    group.add_argument("--grid", metavar="NAME|G", help="grid, such as fr or us-tx, or gCO2e per kWh (default world)")
    group.add_argument(
        "--pue", type=float, metavar="RATIO", help="power usage effectiveness of the site (default 1.56)"
    )
    group.add_argument("--usd-per-kwh", type=float, metavar="USD", help="owned: price of electricity")


def cluster_of(args: argparse.Namespace) -> Cluster:
    """The cluster under the terms that the arguments ask for."""
    from hardware_profiles.cluster import parse_cluster
    from hardware_profiles.terms import with_terms

    terms = {name: value for name in TERM_SETTINGS if (value := getattr(args, name)) is not None}
    return with_terms(parse_cluster(args.cluster, check_terms=not terms), **terms)


def add_plan(parser: argparse.ArgumentParser) -> None:
    """--tp --pp --dp --ep."""
    group = parser.add_argument_group("parallel layout")
    group.add_argument("--tp", type=int, default=1, metavar="N", help="tensor parallel degree")
    group.add_argument("--pp", type=int, default=1, metavar="N", help="pipeline parallel degree")
    group.add_argument("--dp", type=int, default=1, metavar="N", help="replicas")
    group.add_argument("--ep", type=int, default=1, metavar="N", help="expert parallel degree (vLLM: tp * dp)")


def add_pools(parser: argparse.ArgumentParser) -> None:
    """--disaggregate and the link between the pools."""
    group = parser.add_argument_group("prefill and decode on different devices (docs/disaggregation.md)")
    group.add_argument(
        "--disaggregate",
        nargs=2,
        metavar="POOL",
        help="prefill=tp2,dp2 decode=tp4,dp1; also cluster=SPEC, engine=NAME and engine settings of a pool",
    )
    group.add_argument(
        "--kv-link",
        metavar="LINK",
        help="what KV goes over, per device: 50GB/s, 400Gb/s, inf (default: the clusters' own)",
    )
    group.add_argument(
        "--kv-overlap", action="store_true", help="send the KV of a layer while later layers of the prompt compute"
    )


def add_workload(parser: argparse.ArgumentParser) -> None:
    """--trace or a synthetic workload."""
    from apex_sim.commands.traces import add_read_arguments
    from apex_sim.token_options import add_token_changes

    group = parser.add_argument_group("workload (a trace, a workload YAML, or a synthetic one)")
    group.add_argument(
        "--trace",
        metavar="FILE",
        help="trace file (format detected) or workload YAML (default without lengths: the bundled sample chat_small)",
    )
    group.add_argument(
        "--rate", "--request-rate", type=float, metavar="PER_S", help="requests per second; inf: all at once"
    )
    group.add_argument("--input-len", metavar="DIST", help="a number or e.g. 'lognormal(median=660,sigma=0.9)'")
    group.add_argument("--output-len", metavar="DIST", help="the same for output tokens")
    add_prompts(group)
    group.add_argument("--num-requests", type=int, metavar="N", help="requests to send (with a trace: its first N)")
    group.add_argument(
        "--arrival",
        metavar="PROCESS",
        help="poisson, gamma(cv=2), constant, closed(concurrency=64) ... (default poisson)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the synthetic workload and of random routing"
    )
    group.add_argument("--slo", metavar="LIMITS", help="e.g. ttft=1s,tpot=50ms,e2e=30s,attainment=0.95")
    add_read_arguments(parser, prefix="trace-")
    add_token_changes(parser)


def engine_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The engine settings among the arguments, by name."""
    return {name: getattr(args, name) for name in ENGINE_SETTINGS}


def workload_of(args: argparse.Namespace) -> Trace:
    """The trace that the arguments ask for."""
    from apex_sim.commands.traces import trace_from_args
    from apex_sim.token_options import token_settings
    from apex_sim.workload import SAMPLE_WORKLOAD, all_at_once, arrivals, at_once, check_workload, make_trace
    from workloads.trace import Trace

    if isinstance(args.trace, Trace):
        return args.trace
    if all_at_once(args.trace, args.rate, args.arrival):
        read = argparse.Namespace(**{**vars(args), "rate": None})
        return at_once(workload_of(read))
    rate, arrival = arrivals(args.rate, args.arrival)
    args = argparse.Namespace(**{**vars(args), "rate": rate, "arrival": arrival})
    tokens = token_settings(args)
    given: dict[str, Any] = {name: getattr(args, name) for name in WORKLOAD_SETTINGS}
    file = args.trace
    if file is None and args.input_len is None and args.output_len is None:
        file = SAMPLE_WORKLOAD
    check_workload(file, **given, seed=args.seed)
    if file is None:
        _no_reading_options(args)
        return make_trace(**given, **tokens, seed=args.seed)
    if args.arrival is not None:  # --arrival and --rate beside a file are how to read it
        args = argparse.Namespace(**{**vars(args), "trace_arrival": args.arrival, "trace_rate": args.rate})
        if args.trace_seed == 0:
            args.trace_seed = args.seed
        given |= {"arrival": None, "rate": None}
    return make_trace(trace=trace_from_args(file, args, prefix="trace-"), **given, **tokens, seed=args.seed)


def _no_reading_options(args: argparse.Namespace) -> None:
    """Options that say how to read a trace have no meaning without one."""
    from hardware_profiles.errors import UserError

    for name, value in vars(args).items():
        if name.startswith("trace_") and value not in (None, False, 0, []):
            raise UserError(
                f"--{name.replace('_', '-')} says how to read a trace, but the workload is synthetic; drop it"
            )


def workload_config(args: argparse.Namespace) -> dict[str, Any]:
    """The workload arguments as a mapping that repeats the run."""
    trace = args.trace
    if trace is not None and Path(trace).exists():
        trace = str(Path(trace).resolve())
    from apex_sim.token_options import given_tokens

    names = (*WORKLOAD_SETTINGS, "seed", "slo")
    reading = [name for name in vars(args) if name.startswith("trace_")]
    return {"trace": trace, **{name: getattr(args, name) for name in (*names, *reading)}, **given_tokens(args)}
