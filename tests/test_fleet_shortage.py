"""When no fleet serves a workload: throughputs, and what the nearest types lack, in text, JSON and report; exit code 2."""

from __future__ import annotations

import json
import pickle

import pytest

import apex_sim as apex
from apex_sim.cli import main
from apex_sim.gpus_shortage import NoFleet

WORK = ["--rate", "4", "--num-requests", "40", "--input-len", "400", "--output-len", "60"]
GPUS = ["gpus", "--model", "llama-3.1-8b", "--no-cache", *WORK, "--gpus"]
TABLE = {
    "workload_distribution": [[0.25, 0.75]],
    "total_request_rate": 8.0,
    "gpu_info": {"A10G": {"cost": 1.0, "tputs": [[4, 0]]}, "A100": {"cost": 3.0, "tputs": [[20, 0]]}},
}


def asked(tmp_path, capsys, *argv):
    """(what was printed, the error, JSON, report) of a command that ends with 2."""
    files = [tmp_path / "g.json", tmp_path / "g.html"]
    assert main([*argv, "--json", str(files[0]), "--report", str(files[1])]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("apex-sim: error:") == 1 and "Traceback" not in shown.err
    return shown.out, shown.err, json.loads(files[0].read_text()), files[1].read_text()


def test_the_nearest_type_comes_first_with_the_latency_that_it_has(tmp_path, capsys):
    out, err, data, page = asked(tmp_path, capsys, *GPUS, "l4,h100-sxm", "--slo", "tpot=5ms")
    near, far = data["lacks"]
    assert (near["type"], far["type"]) == ("h100-sxm", "l4") and near["excess"] < far["excess"]
    alone = apex.simulate("llama-3.1-8b", "h100-sxm:1", input_len=400, output_len=60, num_requests=1, rate=1)
    assert near["tpot_s"] == pytest.approx(alone.summary["median_tpot_ms"] / 1e3)
    assert near["excess"] == pytest.approx(near["tpot_s"] / 5e-3) and near["why"] == "slo"
    assert data["meets_slo"] is False and data["unserved"] == [size["size"] for size in data["sizes"]]
    assert "no GPU type serves size" in err and near["words"] in out and near["words"] in page
    assert out.index("h100-sxm with one") < out.index("l4 with one")
    assert main(["export", str(tmp_path / "g.json"), "--out", str(tmp_path / "deploy")]) == 2
    assert "no fleet serves the workload" in capsys.readouterr().err and not (tmp_path / "deploy").exists()


def test_the_latency_that_is_named_would_do(tmp_path, capsys):
    """At a limit just above what the nearest has, single requests are served."""
    _, _, data, _ = asked(tmp_path, capsys, *GPUS, "h100-sxm", "--slo", "tpot=5ms")
    limit = f"tpot={1.02e3 * data['lacks'][0]['tpot_s']:.3f}ms"
    assert main([*GPUS, "h100-sxm", "--slo", limit, "--no-headroom"]) == 0


def test_types_without_room_or_length_say_so(tmp_path, capsys):
    big = [word if word != "llama-3.1-8b" else "llama-3.1-70b" for word in GPUS]
    out, _, data, _ = asked(tmp_path, capsys, *big, "l4", "--slo", "tpot=50ms")
    assert [lack["why"] for lack in data["lacks"]] == ["memory"] and data["lacks"][0]["excess"] is None
    assert out.count("l4 does not hold the model") == 1
    _, _, data, _ = asked(tmp_path, capsys, *GPUS, "h100-sxm", "--slo", "tpot=50ms", "--max-model-len", "100")
    assert data["lacks"][0]["words"] == "takes requests of at most 100 tokens, these have 460"


def test_limits_that_cannot_carry_the_load_show_the_throughputs(tmp_path, capsys):
    out, err, data, page = asked(
        tmp_path, capsys, *GPUS, "l4", "--slo", "tpot=200ms", "--rate", "400", "--limit", "l4=1"
    )
    assert data["unserved"] == data["lacks"] == [] and data["sizes"][0]["max_tput_per_s"]["l4"] > 0
    assert "the instances to be had carry" in err and "what the types lack" not in out + page.lower()


@pytest.mark.parametrize("skip", [[], ["--skip-unserved"]])
def test_a_table_has_its_throughputs(tmp_path, capsys, skip):
    table = TABLE if not skip else TABLE | {"workload_distribution": [[0, 1]]}
    (tmp_path / "table.json").write_text(json.dumps(table))
    out, _, data, page = asked(tmp_path, capsys, "gpus", "--profile", str(tmp_path / "table.json"), *skip)
    assert len(data["unserved"]) == 1 and data["lacks"] == []
    assert data["types"][1]["requests_served"] == (0.0 if skip else 0.25)
    assert "cannot" in out and "cannot" in page


def test_a_day_and_stdout(capsys):
    day = ["--arrival", "diurnal(1,4,60)", *GPUS[1:4]]
    argv = ["gpus", *day, *WORK[2:], "--gpus", "l4", "--slo", "tpot=5ms", "--autoscale", "20s", "--startup", "5s"]
    assert main([*argv, "--json", "-"]) == 2
    assert json.loads(capsys.readouterr().out)["lacks"][0]["type"] == "l4"


def test_in_python_the_exception_has_it():
    with pytest.raises(NoFleet) as caught:
        apex.gpus("llama-3.1-8b", "l4", slo="tpot=5ms", rate=4, input_len=400, output_len=60, num_requests=40)
    data = caught.value.data
    assert data["lacks"][0]["type"] == "l4" and pickle.loads(pickle.dumps(caught.value)).data == data
