"""All-reduce between processes of this machine, one process per GPU (NCCL) or a few on a CPU (gloo)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from simulator.kernel_runner.backend import Collected, Unsupported
from simulator.kernel_runner.kernel import Kernel, kernel

START_S = 60.0
"""Longest that processes may take to import PyTorch and to find each other."""
REPEATS = 15


def collect(kernels: Sequence[Kernel], library: str, seconds: float) -> Collected:
    """Samples of every kernel, group by group; a group that fails is left out, and all failing is Unsupported."""
    result = Collected(implementation=library)
    groups = sorted({k["ranks"] for k in kernels})
    problem = ""
    for ranks in groups:
        mine = [k for k in kernels if k["ranks"] == ranks]
        try:
            result.samples |= _group(mine, ranks, library, seconds / len(groups))
        except Unsupported as reason:
            problem = str(reason)
    if not result.samples:
        raise Unsupported(problem or "no group of two was asked for")
    return result


def _group(kernels: Sequence[Kernel], ranks: int, library: str, seconds: float) -> dict[Kernel, list[float]]:
    """Start one process per rank, wait, and read what rank 0 wrote."""
    with tempfile.TemporaryDirectory(prefix="apex-sim-") as folder:
        job = {
            "library": library,
            "ranks": ranks,
            "dtype": kernels[0].dtype,
            "bytes": [k["bytes"] for k in kernels],
            "seconds": seconds,
            "meeting": f"file://{folder}/meeting",
            "out": f"{folder}/samples.json",
        }
        errors = Path(folder, "errors")
        with errors.open("w") as stderr:
            command = [sys.executable, "-m", "simulator.kernel_runner.collective", json.dumps(job)]
            workers = [subprocess.Popen([*command, str(rank)], stdout=stderr, stderr=stderr) for rank in range(ranks)]
            _wait(workers, START_S + 3 * seconds)
        if any(worker.returncode for worker in workers):
            lines = [line for line in errors.read_text("utf-8", "replace").splitlines() if "Error" in line]
            raise Unsupported(f"{library} with {ranks} processes failed: {(lines or ['no answer in time'])[-1][:120]}")
        samples: dict[str, list[float]] = json.loads(Path(folder, "samples.json").read_text("utf-8"))
    return {
        kernel("collective", "all_reduce", kernels[0].dtype, ranks=ranks, bytes=int(size)): times
        for size, times in samples.items()
    }


def _wait(workers: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Until all are done, one has failed, or time is up; none is left behind."""
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline and any(w.poll() is None for w in workers):
            if any(w.poll() for w in workers):
                break
            time.sleep(0.02)
    finally:
        for worker in workers:
            if worker.poll() is None:
                with suppress(OSError):
                    worker.kill()
            worker.wait()


def work(job_text: str, rank: int) -> None:
    """One rank: join the others, reduce every size several times; rank 0 writes the samples."""
    import torch
    import torch.distributed as dist

    job = json.loads(job_text)
    on_gpu = job["library"] == "nccl"
    place = f"cuda:{rank}" if on_gpu else "cpu"
    if on_gpu:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    dist.init_process_group(job["library"], init_method=job["meeting"], rank=rank, world_size=job["ranks"])
    wide = {"float32": torch.float32, "float16": torch.float16}.get(job["dtype"], torch.bfloat16)
    found: dict[str, list[float]] = {}
    begin = time.perf_counter()
    for size in job["bytes"]:
        buffer = torch.zeros(max(1, size // wide.itemsize), dtype=wide, device=place)
        go_on = torch.tensor([float(time.perf_counter() - begin < job["seconds"])], device=place)
        dist.broadcast(go_on, 0)  # all ranks must agree on when to stop
        if not go_on.item():
            break
        found[str(size)] = _samples(torch, dist, buffer, on_gpu)
    if rank == 0:
        Path(job["out"]).write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _samples(torch, dist, buffer, on_gpu: bool) -> list[float]:  # type: ignore[no-untyped-def]
    """Seconds of one all-reduce, several times; on GPUs ten are queued between two events."""
    inner = 10 if on_gpu else 1
    for _ in range(3):
        dist.all_reduce(buffer)
    samples: list[float] = []
    for _ in range(REPEATS):
        dist.barrier()
        if on_gpu:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(inner):
                dist.all_reduce(buffer)
            end.record()
            end.synchronize()
            samples.append(start.elapsed_time(end) * 1e-3 / inner)
        else:
            begin = time.perf_counter()
            dist.all_reduce(buffer)
            samples.append(time.perf_counter() - begin)
    return samples


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
