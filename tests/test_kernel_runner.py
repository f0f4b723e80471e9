"""The kernel-runner: measuring within a budget, fitting, describing; on a device that follows the formulas, and for real."""

from __future__ import annotations

import importlib.util
import json
import sys
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kernel_runner_fake import ALL_REDUCE, BANDWIDTH, DECODE, FACTS, GEMM, PEAK, PREFILL, WATTS, FakeBackend

from apex_sim.cli import build_parser, main
from hardware_profiles.errors import UserError
from hardware_profiles.loader import load_device
from simulator.kernel_runner import numpy_backend, power_meter, runner, torch_backend
from simulator.kernel_runner.backend import Unsupported
from simulator.kernel_runner.kernel import kernel
from simulator.kernel_runner.measure import POLICIES, Policy, measure
from simulator.kernel_runner.numpy_backend import NumpyBackend
from simulator.kernel_runner.points import read_points, to_csv
from simulator.kernel_runner.power_meter import open_meter
from simulator.kernel_runner.rotation import COLD_CACHES, copies
from simulator.kernel_runner.routing import routed
from simulator.kernel_runner.runner import Options, make_profile, open_backend, run_kernels
from simulator.kernel_runner.storage import Storage
from simulator.kernel_runner.suites import SHAPES, WEIGHTS, covering, kernels
from simulator.kernel_runner.torch_kernels import Calls

HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is not installed: pip install 'apex-sim[gpu]'")
QUICK = Options(suite="quick")
BASE = """
name: fake-g1
kind: gpu
vendor: NVIDIA
dense_flop_per_s: {bfloat16: 1.0e+15, fp8: 2.0e+15}
num_sms: 132
memory_bytes: 141_000_000_000
memory_bandwidth_bytes_per_s: 4.0e+12
scaleup: {name: NVLink, bandwidth_bytes_per_s: 4.5e+11, latency_s: 3.0e-6}
host_link: {name: PCIe, bandwidth_bytes_per_s: 6.3e+10, latency_s: 1.0e-5}
tdp_w: 700
price: {usd_per_hour: 3.0, provider: a shop, date: '2026'}
sources: {spec: data sheet, memory_bytes: nvidia-smi, price: a shop}
"""


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(runner.time, "sleep", lambda _: None)


@pytest.fixture
def base(tmp_path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


@pytest.fixture
def use(monkeypatch):
    """Make the command measure a fake."""

    def use(backend):
        monkeypatch.setattr(runner, "open_backend", lambda *_: backend)
        return backend

    return use


def measured(**options):
    return run_kernels(FakeBackend(**options), QUICK)


def command(*args) -> int:
    return main(["calibrate", "--quick", *map(str, args)])


def line_of(capsys) -> str:
    """The one line of an error."""
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("apex-sim: error: ")
    return captured.err.strip()


# -- the fit ------------------------------------------------------------------------------------------------------------


def test_a_device_that_follows_the_formulas_gets_its_parameters_back(base):
    made = make_profile(measured(), base=load_device(base))
    fits = made.device.efficiency
    assert fits.provenance == "measured"
    for dtype in ("bfloat16", "fp8"):
        assert fits.gemm[dtype].compute == pytest.approx(GEMM.compute, rel=0.02)
        assert fits.gemm[dtype].memory == pytest.approx(GEMM.memory, rel=0.02)
        assert fits.gemm[dtype].median_error < 0.01
    assert fits.prefill_attention["bfloat16"].compute == pytest.approx(PREFILL.compute, rel=0.05)
    assert fits.prefill_attention["bfloat16"].tile_rows == PREFILL.tile_rows
    assert fits.decode_attention["bfloat16"].memory == pytest.approx(DECODE.memory, rel=0.02)
    assert fits.decode_attention["bfloat16"].launch_s == pytest.approx(DECODE.launch_s, rel=0.05)
    assert fits.collectives["all_reduce"].bandwidth2_bytes_per_s == pytest.approx(
        ALL_REDUCE.bandwidth2_bytes_per_s, rel=0.05
    )
    assert fits.moe["bfloat16"].median_error < 0.05
    assert fits.logits_row_s == pytest.approx(4e-7, rel=0.05)
    line = made.device.power
    assert (line.base_w, line.compute_w, line.memory_w) == pytest.approx(WATTS, rel=0.05)


def test_without_a_base_the_peaks_are_the_highest_measured():
    made = make_profile(measured())
    device = made.device
    assert 0.9 * GEMM.compute * PEAK < device.dense_flop_per_s["bfloat16"] <= GEMM.compute * PEAK
    assert device.memory_bandwidth_bytes_per_s == pytest.approx(0.9 * BANDWIDTH, rel=0.01)
    assert device.price is None and device.tdp_w == 700.0 and device.idle_w == 80.0
    assert device.host_link.bandwidth_bytes_per_s == pytest.approx(5e10, rel=0.02)
    assert device.max_devices_per_node == FACTS.num_devices


def test_a_base_gives_peaks_and_price_and_the_device_its_own_measurements(base):
    before = load_device(base)
    after = make_profile(measured(), base=before).device
    assert after.dense_flop_per_s == before.dense_flop_per_s and after.price == before.price
    assert after.idle_w == 80.0 and "FAKE G1" in after.sources["idle_w"]
    assert after.host_link.efficiency == pytest.approx(5e10 / 6.3e10, rel=0.02)


def test_families_that_were_not_measured_come_from_the_base_and_say_so():
    lender = load_device("h200-sxm")
    facts_of_h200 = FACTS  # 132 multiprocessors and about its memory
    assert abs(facts_of_h200.memory_bytes / lender.memory_bytes - 1) < 0.1
    fits = make_profile(measured(broken=("moe",)), base=lender).device.efficiency
    assert fits.moe["bfloat16"].source.startswith("base profile: ")
    assert fits.gemm["fp8_block"].source.startswith("base profile: ")
    assert not fits.gemm["bfloat16"].source.startswith("base profile: ")


def test_points_fitted_again_give_the_same_bytes(base, tmp_path, use):
    use(FakeBackend())
    first, again, points = tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "p.csv"
    assert command("--base", base, "--out", first, "--points", points) == 0
    assert main(["calibrate", "--from-points", str(points), "--base", str(base), "--out", str(again)]) == 0
    body = [path.read_text().partition("\n")[2] for path in (first, again)]
    assert body[0] == body[1]


def test_a_points_file_reads_back_as_it_was(tmp_path):
    file = measured()
    path = tmp_path / "points.csv"
    path.write_text(to_csv(file))
    assert read_points(path) == file


# -- using it -----------------------------------------------------------------------------------------------------------


def test_the_profile_can_be_simulated_at_once(base, tmp_path, use, capsys):
    use(FakeBackend())
    out = tmp_path / "mine.yaml"
    assert command("--base", base, "--out", out) == 0
    assert f"--cluster {out}:1" in capsys.readouterr().out
    run = ["simulate", "--model", "llama-3.1-8b", "--cluster", f"{out}:1", "--num-requests", "20"]
    assert main(run) == 0
    assert "fitted on measurements of this device" in capsys.readouterr().out


def test_json_says_what_the_text_says(base, tmp_path, use, capsys):
    use(FakeBackend())
    assert command("--base", base, "--out", tmp_path / "x.yaml", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    names = {(fit["family"], fit["key"]) for fit in content["fits"]}
    assert {("gemm", "fp8"), ("decode_attention", "bfloat16"), ("power", "")} <= names
    assert content["device"]["name"] == "FAKE G1" and content["profile"]["price"]["usd_per_hour"] == 3.0


# -- the budget ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [1.0, 30.0, 3e4])
def test_a_quick_run_ends_in_its_budget_and_says_what_it_cut(slow):
    backend = FakeBackend(slow=slow, has_meter=False)
    file = run_kernels(backend, QUICK, clock=backend.clock)
    slowest = max(p.seconds for p in file.points)
    assert backend.clock.now <= POLICIES["quick"].budget_s + 60 * slowest
    assert any(note.startswith("cut: ") for note in file.notes) == (slow == 3e4)


def test_less_time_means_fewer_repeats_before_fewer_shapes():
    plan = {"gemm": kernels("gpu", "quick", ("bfloat16",), ())["gemm"]}
    policy = Policy(budget_s=40.0, point_s=5.0, sample_s=0.0)
    repeats = {}
    for slow in (50.0, 500.0):
        backend = FakeBackend(slow=slow, has_meter=False)
        result = measure(backend, plan, policy, "quick", clock=backend.clock)
        assert len(result.points) == len(plan["gemm"]) and not result.cut
        repeats[slow] = sum(p.repeats for p in result.points)
    assert repeats[500.0] < repeats[50.0]


def test_any_beginning_of_a_family_covers_the_grid():
    listed = kernels("gpu", "full", ("bfloat16",), ())["gemm"]
    start = listed[: len(listed) // 4]
    assert {k["m"] for k in start} == set(SHAPES["gpu", "full"].gemm_m)
    assert len({(k["n"], k["k"]) for k in start}) >= 15
    assert covering(reversed(listed)) == listed


def test_every_family_has_a_share_of_the_time():
    assert set(kernels("cpu", "tiny", ("float32",), (2,))) == set(WEIGHTS)


# -- what goes wrong ----------------------------------------------------------------------------------------------------


def test_a_device_that_goes_away_leaves_the_old_profile_and_the_points_so_far(tmp_path, use, capsys):
    use(FakeBackend(lost_at=40))
    out, points = tmp_path / "old.yaml", tmp_path / "points.csv"
    out.write_text("old: profile\n")
    assert command("--out", out, "--points", points) == 2
    line = line_of(capsys)
    assert "cuda:0 stopped answering at gemm" in line and "illegal memory access was encountered" in line
    assert out.read_text() == "old: profile\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.yaml", "points.csv"]
    assert len(read_points(points).points) > 10


def test_a_family_that_cannot_run_is_named_and_the_others_go_on(tmp_path, use, capsys):
    use(FakeBackend(broken=("moe", "collective")))
    assert command("--out", tmp_path / "x.yaml") == 0
    text = capsys.readouterr().out
    assert "moe bfloat16: not measured, no kernel image is available" in text
    assert "collective: not measured, NCCL failed" in text
    fits = load_device(tmp_path / "x.yaml").efficiency
    assert not fits.moe and fits.gemm


def test_a_profile_without_attention_is_refused(tmp_path, use, capsys):
    use(FakeBackend(broken=("decode_attention",)))
    assert command("--out", tmp_path / "x.yaml") == 2
    assert "nothing was measured of decode_attention" in line_of(capsys)
    assert not (tmp_path / "x.yaml").exists()


def test_a_fit_that_does_not_converge_is_named_and_nothing_is_written(tmp_path, use, capsys):
    use(FakeBackend(noise={"decode_attention": 1.5}))
    out = tmp_path / "old.yaml"
    out.write_text("old: profile\n")
    assert command("--out", out) == 2
    line = line_of(capsys)
    assert "the fit did not converge for decode_attention bfloat16: median error" in line
    assert "--allow-partial" in line and "gemm" not in line
    assert out.read_text() == "old: profile\n"


def test_allow_partial_writes_the_fits_that_hold(tmp_path, use, capsys):
    use(FakeBackend(noise={"decode_attention": 1.5}))
    assert command("--out", tmp_path / "x.yaml", "--allow-partial") == 0
    assert "median error" in capsys.readouterr().out
    fits = load_device(tmp_path / "x.yaml").efficiency
    assert not fits.decode_attention and fits.gemm and fits.prefill_attention


def test_few_points_are_no_fit(tmp_path):
    file = measured()
    few = [p for p in file.points if p.kernel.family != "gemm"] + [p for p in file.points if p.kernel.family == "gemm"][
        :4
    ]
    with pytest.raises(UserError, match=r"gemm .*: only \d of at least 6 points.*--budget"):
        make_profile(
            SimpleNamespace(**{name: getattr(file, name) for name in ("facts", "suite", "idle_w", "notes")}, points=few)
        )


def test_a_broken_sensor_costs_the_watts_only(monkeypatch):
    backend = FakeBackend()
    monkeypatch.setattr(type(backend.power_meter()), "watts", lambda *_: 1 / 0)
    file = run_kernels(backend, QUICK)
    assert file.idle_w is None and len(file.points) > 100 and not any(p.power_w for p in file.points)


def test_torch_missing_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setattr(runner, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"--device cuda:0 needs PyTorch: pip install 'apex-sim\[gpu\]'"):
        open_backend("cuda:0")
    assert open_backend("cpu").facts.framework == "numpy"


@pytest.mark.parametrize(("count", "said"), [(0, "sees no GPU"), (2, "there is no such GPU; visible: cuda:0, cuda:1")])
def test_an_absent_gpu_is_one_line(monkeypatch, count, said):
    cuda = SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count)
    monkeypatch.setattr(torch_backend, "import_torch", lambda: SimpleNamespace(cuda=cuda, __version__="2.11"))
    with pytest.raises(UserError, match=said):
        torch_backend.TorchBackend("cuda:3")


def test_a_driver_that_fails_is_one_line(monkeypatch):
    def broken(_):
        raise RuntimeError("CUDA driver\ninitialization failed")

    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1, set_device=broken)
    monkeypatch.setattr(torch_backend, "import_torch", lambda: SimpleNamespace(cuda=cuda, __version__="2.11"))
    with pytest.raises(UserError, match=r"cannot be opened \(CUDA driver initialization failed\)"):
        torch_backend.TorchBackend("cuda:0")


def test_scipy_missing_is_said_before_anything_is_measured(monkeypatch, tmp_path, use, capsys):
    backend = use(FakeBackend())
    monkeypatch.setattr(runner, "find_spec", lambda name: None if name == "scipy" else object())
    assert command("--out", tmp_path / "x.yaml") == 2
    assert "pip install 'apex-sim[calibrate]'" in line_of(capsys) and backend.prepared == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "give --out FILE for the profile, --points FILE"),
        (["--out", "{tmp}/x.txt"], "a profile is YAML"),
        (["--out", "{tmp}/none/x.yaml"], "there is no folder"),
        (["--out", "{tmp}"], "a profile is YAML"),
        (["--out", "{tmp}/x.yaml", "--points", "{tmp}/x.yaml"], "is the same file as --out"),
        (["--out", "{tmp}/x.yaml", "--tiny"], "contradict each other"),
        (["--out", "{tmp}/x.yaml", "--budget", "0"], "--budget is 0"),
        (["--out", "{tmp}/x.yaml", "--budget", "nan"], "--budget is nan"),
        (["--out", "{tmp}/x.yaml", "--dtypes", "bf17"], "--dtypes: 'bf17' is not known"),
        (["--out", "{tmp}/x.yaml", "--dtypes", "int8"], "does not multiply int8; it does bfloat16, fp8"),
        (["--out", "{tmp}/x.yaml", "--dtypes", ","], "--dtypes is empty"),
        (["--out", "{tmp}/x.yaml", "--scratch", "{tmp}/none"], "there is no such folder"),
        (["--out", "{tmp}/x.yaml", "--base", "l4"], "--base l4: has 58 multiprocessors, FAKE G1 has 132"),
        (["--out", "{tmp}/x.yaml", "--base", "epyc-9654"], "is a cpu, cuda:0 is a gpu"),
        (["--out", "{tmp}/x.yaml", "--base", "h100-sxm"], "of memory, FAKE G1 has 140 GB"),
        (["--out", "{tmp}/x.yaml", "--from-points", "{tmp}/none.csv"], "--from-points measures nothing"),
    ],
)
def test_mistakes_are_one_line_and_come_before_the_work(tmp_path, use, capsys, flags, said):
    backend = use(FakeBackend())
    assert command(*(flag.format(tmp=tmp_path) for flag in flags)) == 2
    assert said in line_of(capsys)
    assert backend.prepared == 0 and not list(tmp_path.iterdir())


def test_points_that_are_not_there_are_one_line(tmp_path, capsys):
    assert main(["calibrate", "--from-points", str(tmp_path / "none.csv"), "--out", str(tmp_path / "x.yaml")]) == 2
    assert "none.csv: cannot be read" in line_of(capsys)


def test_serve_goes_to_the_serving_engine(monkeypatch):
    from apex_sim.commands import calibrate

    asked = []
    serve = SimpleNamespace(run=lambda args: asked.append(args.device) or 7, OWN=())
    args = build_parser().parse_args(["calibrate", "--serve", "--device", "cuda:1"])
    monkeypatch.setattr(calibrate, "import_module", lambda name: serve)
    assert calibrate.run(args) == 7 and asked == ["cuda:1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "tiny", "--out", "x.yaml"], "--suite is about the serving engine; add --serve"),
        (["--serve", "--suite", "tiny", "--base", "h100-sxm"], "--base is not about the serving engine"),
        (["--tiny", "--threads", "100000", "--out", "x.yaml"], "--threads is 100000; this machine has"),
        (["--serve", "--suite", "tiny", "--threads", "100000"], "--threads is 100000; this machine has"),
    ],
)
def test_options_of_the_other_mode_and_too_many_threads_are_refused(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", *arguments]) == 2
    line = capsys.readouterr().err
    assert said in line and line.count("\n") == 1 and not list(tmp_path.iterdir())


def test_activations_beyond_the_range_of_exp_warn_of_nothing():
    with np.errstate(over="raise"):
        assert numpy_backend._silu(np.float32([-200.0, 0.0, 200.0])).tolist() == [0.0, 0.0, 200.0]


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_devices_that_cannot_be_read_are_one_line(device):
    with pytest.raises(UserError, match="write cpu, cuda or cuda:N"):
        open_backend(device)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# apex-sim kernel points 1", "# something", "does not begin with"),
        ("family,op,", "family,kind,", "has no column 'op'"),
        ("# facts: {", "# facts: {,", "the comment 'facts' is not JSON"),
        ('"kind": "gpu"', '"kind": "tpu"', "facts.kind is the string 'tpu'; did you mean 'gpu'?"),
        ("\nmemory,copy,", "\nmemories,copy,", "family is 'memories'"),
        (",1e-06,1e-06,1e-06,", ",3000,1e-06,1e-06,", "check the unit"),
        (",1e-06,1e-06,1e-06,", ",-1e-06,1e-06,1e-06,", "seconds is '-1e-06'"),
    ],
)
def test_points_that_cannot_be_right_are_one_line(tmp_path, old, new, said):
    text = to_csv(measured(has_meter=False))
    assert old in text
    path = tmp_path / "points.csv"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        read_points(path)
    assert said in str(error.value) and "\n" not in str(error.value) and "points.csv" in str(error.value)


def test_a_point_that_is_there_twice_is_refused(tmp_path):
    text = to_csv(measured(has_meter=False))
    path = tmp_path / "points.csv"
    path.write_text(text + text.splitlines()[-1] + "\n")
    with pytest.raises(UserError, match="is there twice"):
        read_points(path)


# -- real devices -------------------------------------------------------------------------------------------------------


def test_numpy_measures_this_cpu_for_real(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "find_spec", lambda name: None if name == "torch" else object())
    out, points = tmp_path / "cpu.yaml", tmp_path / "points.csv"
    flags = ["--tiny", "--budget", "30", "--out", str(out), "--points", str(points), "--allow-partial"]
    assert main(["calibrate", *flags]) == 0
    assert "numpy" in capsys.readouterr().out
    device = load_device(out)
    assert device.kind == "cpu" and 1e8 < device.dense_flop_per_s["float32"] < 1e14
    assert 1e8 < device.memory_bandwidth_bytes_per_s < 1e13
    assert {p.kernel.family for p in read_points(points).points} >= {
        "gemm",
        "prefill_attention",
        "decode_attention",
        "moe",
    }


@needs_torch
def test_torch_measures_this_cpu_for_real(tmp_path):
    backend = torch_backend.TorchBackend("cpu", 1)
    file = run_kernels(backend, Options(suite="tiny", budget_s=10.0, dtypes=("float32",)))
    assert {p.kernel.family for p in file.points} >= {"memory", "gemm", "decode_attention", "elementwise"}
    path = tmp_path / "points.csv"
    path.write_text(to_csv(file))
    assert read_points(path) == file


@needs_torch
@pytest.mark.parametrize("paged", [True, False])
def test_every_kernel_of_a_gpu_suite_has_operands_that_fit_together(monkeypatch, paged):
    """On PyTorch's meta device, which checks shapes and dtypes and computes nothing."""
    import torch

    from simulator.kernel_runner import torch_kernels
    from simulator.kernel_runner.torch_kernels import TorchKernels

    if not paged:
        monkeypatch.setattr(torch_kernels, "varlen_attention", lambda: None)
    maker = TorchKernels(torch, "meta", FACTS)
    plan = kernels("gpu", "quick", ("bfloat16", "float16", "fp8", "int8"), ())
    for family in ("memory", "launch", "gemm", "prefill_attention", "decode_attention", "moe", "elementwise"):
        for one in plan[family]:
            if one.dtype == "int8" and one["m"] <= 16:
                with pytest.raises(Unsupported, match="more than 16 rows"):
                    maker.make(one)
            else:
                maker.make(one).calls[0]()


def stand_in_for_cuda(log: list[str]) -> SimpleNamespace:
    """The part of torch that times a graph: a replay takes 1 ms, whatever it replays."""

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0

        def record(self) -> None:
            self.at = log.count("replay") + 0.1 * log.count("call")

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end) -> float:
            return end.at - self.at

    stream = SimpleNamespace(wait_stream=lambda _: None)
    cuda = SimpleNamespace(
        Event=Event,
        Stream=lambda: stream,
        stream=lambda _: nullcontext(),
        current_stream=lambda: stream,
        synchronize=lambda: None,
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: log.append("replay")),
        graph=lambda _: nullcontext(),
    )
    return SimpleNamespace(cuda=cuda)


def test_a_cuda_graph_is_filled_with_copies_in_turn_and_timed_by_events():
    log: list[str] = []
    backend = object.__new__(torch_backend.TorchBackend)
    backend._torch = stand_in_for_cuda(log)
    prepared = backend._captured(Calls([lambda: log.append("call")] * 4, "kernel"))
    assert prepared.calls == 4  # four calls of 0.1 ms are enough
    assert prepared.run(5) == pytest.approx(1e-3 / 4)


def test_power_is_that_of_the_gpu_with_the_uuid_by_its_energy_counter(monkeypatch):
    joules = iter(range(10**6))
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetEnforcedPowerLimit=lambda _: 700_000,
        nvmlDeviceGetPowerManagementLimitConstraints=lambda _: (200_000, 700_000),
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=150),
        nvmlSystemGetDriverVersion=lambda: b"580.1",
        nvmlDeviceGetTotalEnergyConsumption=lambda uuid: 1e3 * next(joules) if uuid == "GPU-x" else None,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    meter, limits = open_meter("GPU-x")
    assert (limits.power_limit_w, limits.min_cap_w, limits.memory_bytes, limits.driver) == (700.0, 200.0, 150, "580.1")
    assert meter.name == "NVML energy counter" and meter.watts(lambda: None, 0.01) > 0


def test_without_nvml_and_nvidia_smi_there_is_no_power(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(power_meter.shutil, "which", lambda _: None)
    assert open_meter("GPU-x") == (None, power_meter.Limits())


@needs_torch
def test_processes_of_one_machine_reduce_with_gloo():
    from simulator.kernel_runner.collective import collect

    listed = [kernel("collective", "all_reduce", "float32", ranks=2, bytes=b) for b in (1024, 65536)]
    found = collect(listed, "gloo", 5.0)
    assert set(found.samples) == set(listed) and all(min(times) > 0 for times in found.samples.values())


def test_a_thick_product_takes_longer_than_a_thin_one_on_a_real_cpu():
    backend = NumpyBackend("cpu")
    thin, thick = (backend.prepare(kernel("gemm", "", "float32", m=m, n=512, k=512)).run for m in (1, 512))
    assert min(thick(2) for _ in range(3)) > 3 * min(thin(2) for _ in range(3))


def test_a_drive_is_read_past_the_page_cache(tmp_path):
    with Storage(tmp_path, 1 << 20) as storage:
        try:
            prepared = [
                storage.prepare(kernel("storage", op, bytes=4096, depth=d)) for op in ("write", "read") for d in (1, 4)
            ]
        except Unsupported as reason:
            pytest.skip(f"no O_DIRECT here: {reason}")
        assert all(p.run(5) > 0 for p in prepared)
    assert not list(tmp_path.iterdir())


# -- small laws ---------------------------------------------------------------------------------------------------------


def test_copies_fill_the_cache_several_times_over_and_no_more():
    assert copies(FACTS.cache_bytes, FACTS) == int(np.ceil(COLD_CACHES))
    assert copies(10 * FACTS.cache_bytes, FACTS) == 1
    assert copies(1.0, FACTS) == 256
    with pytest.raises(Unsupported, match="more than 40% of the device's memory"):
        copies(0.5 * FACTS.memory_bytes, FACTS)


@pytest.mark.parametrize("shape", [(1, 8, 2), (7, 8, 2), (64, 128, 8)])
def test_every_token_goes_to_as_many_experts_as_it_picks(shape):
    tokens, experts, top_k = shape
    owner, rows = routed(tokens, experts, top_k)
    assert sum(rows) == tokens * top_k and len(rows) == experts
    assert np.bincount(owner, minlength=tokens).tolist() == [top_k] * tokens
    starts = np.cumsum([0, *rows])
    assert all(len(set(owner[a:b])) == b - a for a, b in pairwise(starts))


def test_numpy_attention_behind_a_prefix_sees_what_is_before_it():
    from simulator.kernel_runner.numpy_backend import _attention

    rng = np.random.default_rng(0)
    keys, values = (rng.standard_normal((1, 1, 1, 5, 128)).astype(np.float32) for _ in range(2))
    query = rng.standard_normal((1, 1, 1, 2, 128)).astype(np.float32)
    hidden = np.triu(np.full((2, 5), -np.inf, np.float32), k=4)
    both = _attention(query, keys, values, hidden)
    first = _attention(query[..., :1, :], keys[..., :4, :], values[..., :4, :], None)
    np.testing.assert_allclose(both[..., :1, :], first, rtol=1e-5)
