"""``apex-sim models``: the built-in catalog, what a model weighs, caches and computes, and formats of weights."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from apex_sim.json_option import add_json, wants_json
from apex_sim.model_words import attention_word, encoder_words, layer_words

if TYPE_CHECKING:
    from workloads.model import ModelSpec

DESCRIPTION = "Models by Hugging Face name, short name or config.json: parameters, weights, KV cache, FLOP per token."
KV_CONTEXTS = (1024, 8192, 32768, 131072)
ENCODER_INPUTS = (512, 1500)
FLOP_CONTEXTS = (0, 4096, 32768)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``models`` and its two actions."""
    parser = subparsers.add_parser("models", help="list models, or show one in detail", description=DESCRIPTION)
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|formats")
    listing = actions.add_parser("list", help="the built-in catalog")
    listing.add_argument("text", nargs="?", default="", metavar="TEXT", help="only names that contain TEXT")
    add_json(listing)
    formats = actions.add_parser("formats", help="number formats of weights: what --quantization takes")
    add_json(formats)
    show = actions.add_parser("show", help="one model: layers, parameters, weights, KV cache, FLOP")
    show.add_argument("model", metavar="NAME|PATH", help="Hub name, short name, config.json or model folder")
    show.add_argument("--dtype", default="auto", help="dtype of unquantised weights: auto, bfloat16, float16, float32")
    show.add_argument("--quantization", metavar="METHOD", help="override: fp8, awq, gptq, int8, mxfp4, nvfp4 ...")
    show.add_argument("--kv-cache-dtype", default="auto", help="auto (as --dtype), fp8, float16 ...")
    show.add_argument("--tp", type=int, default=1, metavar="N", help="tensor parallel degree (default 1)")
    show.add_argument("--pp", type=int, default=1, metavar="N", help="pipeline parallel degree (default 1)")
    show.add_argument(
        "--ep", type=int, default=1, metavar="N", help="ranks the experts are spread over (default 1: split by TP)"
    )
    add_json(show, "the facts in SI units")


def run(args: argparse.Namespace) -> int:
    """Print the list, one model or the formats; 0."""
    return {"list": _list, "show": _show, "formats": _formats}[args.action](args)


def _formats(args: argparse.Namespace) -> int:
    from simulator.physics.formats import FORMATS

    rows = [
        {
            "name": name,
            "bytes_per_weight": row.quant.bytes_per_weight,
            "activations": row.quant.activation_dtype or "16 bits",
            "confidence": row.confidence,
            "source": row.source,
        }
        for name, row in FORMATS.items()
    ]
    if wants_json(args, rows):
        return 0
    head = ("FORMAT", "BITS", "ACTIVATIONS", "CONFIDENCE", "SOURCE")
    cells = [
        (str(r["name"]), f"{8 * row.quant.bytes_per_weight:.2f}", str(r["activations"]), row.confidence, row.source)
        for r, row in zip(rows, FORMATS.values(), strict=True)
    ]
    print(_table([head, *cells], right=(1,)))
    return 0


def _list(args: argparse.Namespace) -> int:
    from hardware_profiles.errors import UserError
    from workloads.catalog import catalog, load_model

    rows = []
    for stem, entry in catalog().items():
        names = (stem, *entry.names, *entry.aliases)
        if any(args.text.lower() in name.lower() for name in names):
            rows.append(_row(stem, entry.names, load_model(stem)))
    if not rows:
        raise UserError(f"no built-in model has {args.text!r} in its name; see 'apex-sim models list'")
    if wants_json(args, rows):
        return 0
    head = ("NAME", "PARAMS", "ACTIVE", "LAYERS", "ATTENTION", "KV/TOKEN", "WEIGHTS", "STORED AS", "HUB NAME")
    cells = [
        (
            row["name"],
            _billions(row["num_params"]),
            _billions(row["num_active_params"]),
            str(row["num_layers"]),
            row["attention"],
            f"{row['kv_bytes_per_token'] / 1e3:.1f} kB",
            f"{row['weight_bytes'] / 1e9:.1f} GB",
            row["stored_as"],
            row["hub_names"][0] + (f" (+{len(row['hub_names']) - 1})" if len(row["hub_names"]) > 1 else ""),
        )
        for row in rows
    ]
    print(_table([head, *cells], right=(1, 2, 3, 5, 6)))
    return 0


def _row(stem: str, names: tuple[str, ...], model: ModelSpec) -> dict[str, Any]:
    from workloads.model import dtype_bytes

    return {
        "name": stem,
        "hub_names": list(names),
        "num_params": model.num_params,
        "num_active_params": model.num_active_params,
        "num_layers": model.num_layers,
        "attention": attention_word(model),
        "kv_bytes_per_token": model.kv_bytes_per_token(dtype_bytes(model.dtype)),
        "weight_bytes": model.weight_bytes(),
        "stored_as": model.quant.weight_dtype if model.quant else model.dtype,
    }


def _show(args: argparse.Namespace) -> int:
    from workloads.catalog import load_model

    model = _with_dtypes(load_model(args.model), args.dtype, args.quantization)
    facts = _facts(model, args)
    if not wants_json(args, facts):
        print(_text(model, facts))
    return 0


def _with_dtypes(model: ModelSpec, dtype: str, quantization: str | None) -> ModelSpec:
    from dataclasses import replace

    from hardware_profiles.errors import unknown_name
    from simulator.physics.formats import OVERRIDES
    from workloads.model import FLOAT_DTYPES, full_dtype_name

    if dtype != "auto":
        full = full_dtype_name(dtype)
        if full not in FLOAT_DTYPES:
            raise unknown_name("dtype", dtype, ["auto", *FLOAT_DTYPES])
        model = replace(model, dtype=full)
    if quantization is not None:
        if quantization not in OVERRIDES:
            raise unknown_name("quantization", quantization, OVERRIDES)
        model = replace(model, quant=OVERRIDES[quantization])
    return model


def _facts(model: ModelSpec, args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is shown, in SI units."""
    from workloads.model import dtype_bytes, full_dtype_name

    kv_dtype = model.dtype if args.kv_cache_dtype == "auto" else full_dtype_name(args.kv_cache_dtype)
    kv_bytes = dtype_bytes(kv_dtype)
    per_device = model.weight_bytes_per_device(args.tp, args.pp, args.ep)
    return {
        "name": model.name,
        "model_type": model.model_type,
        "source": model.source,
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_position_embeddings,
        "tie_word_embeddings": model.tie_word_embeddings,
        "num_layers": model.num_layers,
        "layers": [layer_words(group.count, group.attention, group.mlp) for group in model.layers],
        **({"encoder": encoder_words(model)} if model.encoder is not None else {}),
        **({"pooling": True} if model.pooling else {}),
        "attention": attention_word(model),
        "sliding_window": model.sliding_window,
        "num_params": model.num_params,
        "num_active_params": model.num_active_params,
        "params_by_component": model.params_by_component(),
        "dtype": model.dtype,
        "quantization": _quant_facts(model),
        "weight_bytes": model.weight_bytes(),
        "parallel": {"tp": args.tp, "pp": args.pp, "ep": args.ep},
        "valid_tps": list(model.valid_tps()),
        "weight_bytes_per_device": per_device,
        "kv_cache_dtype": kv_dtype,
        "kv_bytes_per_token": model.kv_bytes_per_token(kv_bytes),
        "kv_bytes_per_token_full_layers": kv_bytes * _full_kv_elements(model),
        "kv_bytes_per_token_per_device": model.kv_bytes_per_token_per_device(args.tp, args.pp, kv_bytes),
        "state_bytes_per_sequence": model.state_elements * dtype_bytes(model.dtype),
        "kv_bytes_at_context": {str(n): model.kv_bytes(n, kv_bytes) for n in KV_CONTEXTS},
        "flop_per_token_at_context": {str(n): model.flop_per_token(n) for n in FLOP_CONTEXTS},
        **({} if model.encoder is None else {"encoder_flop": {str(n): model.encoder.flop(n) for n in ENCODER_INPUTS}}),
    }


def _full_kv_elements(model: ModelSpec) -> int:
    """KV elements per token that keep growing once all windows are full."""
    return sum(g.count * g.attention.kv_elements_per_token for g in model.layers if not g.attention.sliding_window)


def _quant_facts(model: ModelSpec) -> dict[str, Any] | None:
    from dataclasses import asdict

    return asdict(model.quant) if model.quant else None


def _text(model: ModelSpec, facts: dict[str, Any]) -> str:
    """The facts for people: GB are 10^9 bytes."""
    parallel = facts["parallel"]
    layout = " x ".join(f"{k.upper()} {v}" for k, v in parallel.items() if v > 1)
    total = facts["num_params"]
    rows = [
        ("model type", facts["model_type"]),
        ("source", facts["source"]),
        ("layers", facts["layers"][0]),
        *(("", words) for words in facts["layers"][1:]),
        *_encoder_rows(facts),
        ("hidden, vocabulary", f"{facts['hidden_size']:,}, {facts['vocab_size']:,}{_tied(model)}"),
        ("context", f"{facts['max_position_embeddings']:,} tokens"),
        ("attention", facts["attention"]),
        ("valid TP", ", ".join(map(str, facts["valid_tps"]))),
        ("", ""),
        ("parameters", f"{total:,} ({_billions(total)})"),
        *((f"  {name}", f"{n:,} ({100 * n / total:.1f} %)") for name, n in facts["params_by_component"].items()),
        ("  active per token", f"{facts['num_active_params']:,} ({_billions(facts['num_active_params'])})"),
        ("", ""),
        ("weights", f"{facts['weight_bytes'] / 1e9:.2f} GB, {_stored(model)}"),
        *([(f"  per device, {layout}", f"{facts['weight_bytes_per_device'] / 1e9:.2f} GB")] if layout else []),
        ("KV cache per token", f"{facts['kv_bytes_per_token']:,.0f} B in {facts['kv_cache_dtype']}{_windowed(facts)}"),
        *([(f"  per device, {layout}", f"{facts['kv_bytes_per_token_per_device']:,.0f} B")] if layout else []),
        *_state_row(facts),
        *(
            (f"  {int(n) // 1024}k tokens of context", f"{value / 1e9:.3f} GB")
            for n, value in facts["kv_bytes_at_context"].items()
            if facts["kv_bytes_per_token"]
        ),
        ("", ""),
        ("FLOP per token", ""),
        *(
            (f"  after {int(n) // 1024}k tokens" if int(n) else "  first token", f"{value / 1e9:,.2f} GFLOP")
            for n, value in facts["flop_per_token_at_context"].items()
        ),
        *(
            (f"  encoder, {n} tokens in", f"{value / 1e9:,.2f} GFLOP")
            for n, value in facts.get("encoder_flop", {}).items()
        ),
    ]
    return f"{facts['name']}\n" + _table([(f"  {label}", value) for label, value in rows])


def _encoder_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The encoder's layers; or that there is nothing but one pass."""
    rows = [("encoder" if not i else "", words) for i, words in enumerate(facts.get("encoder", ()))]
    return rows + ([("answers", "one pass per request (--runner pooling)")] if facts.get("pooling") else [])


def _tied(model: ModelSpec) -> str:
    if model.pooling:
        return ""
    return " (LM head is the embedding)" if model.tie_word_embeddings else ""


def _stored(model: ModelSpec) -> str:
    quant = model.quant
    if quant is None:
        return model.dtype
    what = "linear layers" if quant.scope == "linear" else "routed experts"
    run_in = f", multiplied in {quant.activation_dtype}" if quant.activation_dtype else ", weight-only"
    calibrated = f"; KV cache calibrated for {quant.kv_cache_dtype}" if quant.kv_cache_dtype else ""
    return (
        f"{quant.method}: {what} as {quant.weight_dtype} ({quant.bytes_per_weight:.4g} B/weight){run_in}, "
        f"the rest {model.dtype}{calibrated}"
    )


def _windowed(facts: dict[str, Any]) -> str:
    if not facts["sliding_window"]:
        return ""
    return (
        f" ({facts['kv_bytes_per_token_full_layers']:,.0f} B beyond the window of {facts['sliding_window']:,} tokens)"
    )


def _state_row(facts: dict[str, Any]) -> list[tuple[str, str]]:
    state = facts["state_bytes_per_sequence"]
    return [("  state per sequence", f"{state / 1e6:.2f} MB, whatever the context")] if state else []


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} B"


def _table(rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Columns padded to their widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
