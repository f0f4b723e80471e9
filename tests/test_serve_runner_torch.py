"""The serving engine's network and KV caches, for real: needs PyTorch (pip install 'apex-sim[gpu]')."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'apex-sim[gpu]')")

from apex_sim.cli import main  # noqa: E402
from hardware_profiles.errors import UserError  # noqa: E402
from simulator.serve_runner.batch import Piece, StepBatch  # noqa: E402
from simulator.serve_runner.graphs import Padded  # noqa: E402
from simulator.serve_runner.pages import GatheredAttention, PagedCache, Varlen, VarlenCall  # noqa: E402
from simulator.serve_runner.shapes import architecture_of, serve_model  # noqa: E402
from simulator.serve_runner.slots import SlotAttention, SlotCache  # noqa: E402
from simulator.serve_runner.worker import TorchWorker, WorkerSettings, open_device  # noqa: E402

PROMPTS = (50, 37, 20)
TOLERANCE = 1e-5
"""Of logits up to 0.5 in float32: sums in another order."""


def worker(name: str, layout: str, **changes: Any) -> TorchWorker:
    settings: dict[str, Any] = {"max_num_seqs": 4, "max_model_len": 128, "num_blocks": 40, "block_size": 16}
    settings |= changes
    return TorchWorker(
        architecture_of(serve_model(name)),
        WorkerSettings(device="cpu", dtype="float32", layout=layout, **settings),
    )


def tokens_of(row: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(row)
    return tuple(torch.randint(0, 256, (PROMPTS[row],), generator=generator).tolist())


def last_logits(engine: TorchWorker, chunk: int) -> Any:
    """Logits behind every prompt, computed in chunks of so many tokens, all sequences together."""
    found, done = {}, [0] * len(PROMPTS)
    with torch.inference_mode():
        while any(at < PROMPTS[row] for row, at in enumerate(done)):
            pieces = [
                Piece(row=row, start=at, tokens=tokens_of(row)[at : at + chunk], samples=True)
                for row, at in enumerate(done)
                if at < PROMPTS[row]
            ]
            one_by_one = chunk == 1
            batch = StepBatch(decode=tuple(pieces) if one_by_one else (), prefill=() if one_by_one else tuple(pieces))
            for piece, row in zip(batch.pieces, engine.logits(batch), strict=True):
                found[piece.row] = row
                done[piece.row] = piece.end
    return torch.stack([found[row] for row in range(len(PROMPTS))])


@pytest.mark.parametrize("name", ["tiny", "tiny-moe"])
@pytest.mark.parametrize("layout", ["slots", "paged"])
@pytest.mark.parametrize("chunk", [7, 1])
def test_chunks_and_cached_steps_give_the_logits_of_the_prompt_at_once(name: str, layout: str, chunk: int) -> None:
    whole = last_logits(worker(name, "slots"), chunk=1000)
    assert whole.abs().max() > 0.1
    assert torch.allclose(last_logits(worker(name, layout), chunk), whole, atol=TOLERANCE)


def test_slots_attended_together_give_what_they_give_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masked kernel of other devices, on the CPU: idle slots between busy ones, and slots out of order."""
    engine = worker("tiny", "slots")
    assert isinstance(engine.cache, SlotCache)
    for row in (9, 2, 1, 0):
        engine.cache.slot_of(row)
    engine.release(9)
    prompts = tuple(Piece(row=row, start=0, tokens=tokens_of(row)[:-1], samples=False) for row in range(3))
    engine.execute(StepBatch(decode=(), prefill=prompts))
    last = tuple(Piece(row=r, start=PROMPTS[r] - 1, tokens=tokens_of(r)[-1:], samples=True) for r in range(3))
    with torch.inference_mode():
        apart = engine.logits(StepBatch(decode=last, prefill=()))
        monkeypatch.setattr(SlotAttention, "together_on", frozenset({"cpu"}))
        together = engine.logits(StepBatch(decode=last, prefill=()))
    assert torch.allclose(together, apart, atol=TOLERANCE)


def test_attention_is_that_of_the_textbook() -> None:
    """One layer's attention on pages against softmax(q k / sqrt(d)) v, written out."""
    arch = architecture_of(serve_model("tiny"))
    cache = PagedCache(arch, num_blocks=8, block_size=16, max_len=64, dtype=torch.float32, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(40, heads, arch.head_dim, generator=generator) for heads in (4, 2, 2))
    batch = StepBatch(decode=(), prefill=(Piece(row=0, start=0, tokens=(0,) * 40, samples=True),))
    out = cache.prepare(batch).run(0, q, k, v)
    keys, values = (x.repeat_interleave(2, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, keys) / arch.head_dim**0.5
    scores = scores.masked_fill(~torch.ones(40, 40, dtype=torch.bool).tril(), float("-inf"))
    assert torch.allclose(out, torch.einsum("hqk,khd->qhd", scores.softmax(-1), values), atol=TOLERANCE)


def test_released_room_is_used_again_and_old_entries_do_not_show() -> None:
    for layout in ("slots", "paged"):
        engine = worker("tiny", layout, num_blocks=10)
        first = last_logits(engine, chunk=16)
        for row in range(len(PROMPTS)):
            engine.release(row)
            engine.release(row)
        assert torch.allclose(last_logits(engine, chunk=16), first, atol=TOLERANCE)
        if isinstance(engine.cache, PagedCache):
            assert engine.cache.num_free == 10 - sum(-(-n // 16) for n in PROMPTS)


def test_sampled_tokens_do_not_depend_on_the_company() -> None:
    alone, together = worker("tiny", "slots"), worker("tiny", "paged")
    prompts = [Piece(row=row, start=0, tokens=tokens_of(row), samples=True) for row in range(3)]
    apart = [alone.execute(StepBatch(decode=(), prefill=(piece,)))[0] for piece in prompts]
    assert together.execute(StepBatch(decode=(), prefill=tuple(prompts))) == apart
    assert all(0 <= token < 256 for token in apart)


def test_a_chunk_that_ends_no_prompt_samples_nothing() -> None:
    piece = Piece(row=0, start=0, tokens=tokens_of(0)[:20], samples=False)
    assert worker("tiny", "slots").execute(StepBatch(decode=(), prefill=(piece,))) == []


def plain_reading(self: Varlen, q: Any, keys: Any, values: Any) -> Any:
    """What the paged kernel computes, sequence by sequence, from the same arguments."""
    outs = []
    for i, used in enumerate(self.used.tolist()):
        k, v = (x[self.tables[i].long()].flatten(0, 1)[:used].repeat_interleave(2, dim=1) for x in (keys, values))
        begin, end = self.starts[i], self.starts[i + 1]
        scores = torch.einsum("qhd,khd->hqk", q[begin:end], k) / q.shape[-1] ** 0.5
        seen = torch.ones(end - begin, used, dtype=torch.bool).tril(used - int(end - begin))
        outs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v))
    return torch.cat(outs)


KERNEL = VarlenCall(enable_gqa=True, key_starts=False)


@pytest.mark.parametrize("chunk", [7, 1])
def test_arguments_of_the_paged_kernel_say_what_is_to_be_read(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(Varlen, "attend", plain_reading)
    engine = worker("tiny", "paged")
    assert isinstance(engine.cache, PagedCache)
    engine.cache.kernel = KERNEL
    whole = last_logits(worker("tiny", "slots"), chunk=1000)
    assert torch.allclose(last_logits(engine, chunk), whole, atol=TOLERANCE)


def test_padded_decode_batches_compute_what_unpadded_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inputs of a CUDA graph, run on the CPU with a plain reading of the block tables in place of the kernel."""

    monkeypatch.setattr(Varlen, "attend", plain_reading)
    engine = worker("tiny", "paged")
    assert isinstance(engine.cache, PagedCache)
    prompts = tuple(Piece(row=row, start=0, tokens=tokens_of(row)[:-1], samples=False) for row in range(3))
    engine.execute(StepBatch(decode=(), prefill=prompts))
    last = tuple(Piece(row=r, start=PROMPTS[r] - 1, tokens=tokens_of(r)[-1:], samples=True) for r in range(3))
    with torch.inference_mode():
        assert isinstance(engine.cache.prepare(StepBatch(decode=last, prefill=())), GatheredAttention)
        expected = engine.logits(StepBatch(decode=last, prefill=())).argmax(-1)
        engine.cache.kernel = KERNEL
        assert torch.equal(engine.logits(StepBatch(decode=last, prefill=())).argmax(-1), expected)
        padded = Padded(engine.network, engine.cache, 8)
        padded.fill(last)
        assert torch.equal(padded.compute()[:3], expected)


def test_devices_that_are_not_there_are_one_line() -> None:
    for name, what in (("cuda:99", "CUDA devices"), ("tpu", "no device"), ("meta", "cpu or cuda")):
        with pytest.raises(UserError, match=what):
            open_device(name)


def test_a_kernel_that_fails_mid_run_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = worker("tiny", "slots")

    def lost(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: device lost\nmore lines")

    monkeypatch.setattr(engine.network, "logits", lost)
    piece = Piece(row=0, start=0, tokens=(1, 2), samples=True)
    with pytest.raises(UserError, match="a kernel failed: CUDA error: device lost; nothing was written") as error:
        engine.execute(StepBatch(decode=(), prefill=(piece,)))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_tiny_suite_runs_and_is_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way, on this machine's CPU: serve, fit, predict, write, validate. Bounds are loose (a shared runner's noise):
    a schedule or fit that is wrong is off by factors."""
    out = tmp_path / "out"
    arguments = ["calibrate", "--serve", "--suite", "tiny", "--profile", "epyc-9654", "--threads", "1"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert "tpot_mean_ms" in capsys.readouterr().out
    assert main(["validate", str(out / "runs.yaml"), "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    found = {result["id"]: result["metrics"] for result in report["results"]}
    assert set(found) == {"tiny 20 req/s", "tiny 100 req/s"}
    for metrics in found.values():
        assert abs(metrics["output_tok_s"]["error"]) < 0.2
        assert 0.5 < 1 + metrics["itl_p50_ms"]["error"] < 2.0
