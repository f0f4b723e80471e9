"""Examples that the help of each command ends with, and the page that says more. A test parses and runs them."""

from __future__ import annotations

_LOAD = "--rate 4 --input-len 660 --output-len 180 --num-requests 200"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "simulate": (
        f"--model llama-3.1-8b --cluster h100-sxm:1 {_LOAD} --slo ttft=1s,tpot=50ms",
        "--model llama-3.1-70b --cluster h100-sxm:8 --tp 4 --dp 2 --out run",
        "--config run/config.yaml --rate 8 --json -",
    ),
    "several": ("models.yaml --cluster h100-sxm:2 --rate 4 --input-len 500 --output-len 100",),
    "load": (
        "--model llama-3.1-8b --cluster h100-sxm:1 --num-requests 200 --slo ttft=500ms,tpot=30ms",
        "--model llama-3.1-8b --cluster l40s:2 --dp 2 --rates 1:9:2 --input-len 500 --output-len 100 --num-requests 100 "
        "--plot load.svg",
    ),
    "sweep": ("sweep.yaml", "sweep-results --pareto usd_per_million_output_tokens,p95_ttft_ms"),
    "plan": (
        "--model llama-3.1-8b --cluster h100-sxm:1 --slo ttft=1s,tpot=50ms",
        "--model llama-3.1-70b --cluster h100-sxm:8 --trace azure_conv.csv --slo ttft=1s,tpot=50ms --json plan.json",
    ),
    "gpus": (
        "--model llama-3.1-8b --gpus h100-sxm,a100-sxm-80gb,l4 --rate 8 --input-len 'lognormal(median=500,sigma=1)' "
        "--output-len 150 --slo tpot=60ms,ttft=2s",
    ),
    "export": ("plan.json --out deploy", "plan.json --out deploy --engine-version 0.11", "--check deploy"),
    "power": ("--servers 40 --extra 0.3 --t1 0.80 --t2 0.89 --plot row.png",),
    "experts": ("--model mixtral-8x7b --cluster h100-sxm:4 --out placement.json",),
    "reproduce list": ("",),
    "reproduce show": ("orca",),
    "reproduce run": ("orca", "all --only A --json verdicts.json"),
    "explain step": ("--model llama-3.1-70b --cluster h100-sxm:4 --tp 4 --decode 64 --context 2000",),
    "validate": ("--match 'llama-3.1-8b'", "my_runs.yaml --report accuracy.html"),
    "check": ("suite.yaml", "suite.yaml --update --reason 'new kernels'"),
    "models list": ("llama",),
    "models show": ("llama-3.1-70b --tp 8",),
    "models formats": ("",),
    "hardware list": ("--kind gpu",),
    "hardware show": ("h100-sxm",),
    "hardware grids": ("",),
    "traces describe": ("chat_small --plot chat.png",),
    "traces convert": ("chat_small chat.csv",),
    "traces generate": (
        "--rate 4 --input-len 'lognormal(median=660,sigma=0.9)' --output-len 180 --num-requests 200 --out trace.csv",
    ),
    "calibrate": ("--quick --out my-cpu.yaml",),
    "doctor": ("", "--json -"),
    "completion": ("bash > ~/.local/share/bash-completion/completions/apex-sim", "fish"),
}
"""What follows ``apex-sim COMMAND``."""

PAGES = {
    "several": "docs/several_models.md",
    "sweep": "docs/sweeps.md",
    "gpus": "docs/gpus.md",
    "power": "docs/oversubscribe.md",
    "experts": "docs/experts.md",
    "reproduce": "docs/case_studies.md",
    "validate": "docs/validation.md",
    "check": "docs/checks.md",
    "models": "docs/models.md",
    "hardware": "docs/hardware.md",
    "traces": "docs/workloads.md",
    "calibrate": "docs/calibration.md",
    "plan": "docs/planning.md",
}
"""Where the documentation of a command is, if not in docs/cli.md."""
