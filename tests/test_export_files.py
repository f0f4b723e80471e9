"""Exported files: shells run them, Kubernetes takes them, the command line writes them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from export_cases import export, made, requests

import apex_sim
from apex_sim.cli import main
from apex_sim.exporting import read_export
from hardware_profiles.errors import UserError
from planners.export.bundle import at_version, files_of, to_json_values
from planners.export.flags import parse
from planners.export.kubernetes import name_of, node_selector
from planners.export.make import export_of
from planners.export.place import Place
from planners.export.readback import check_export
from simulator.build import build_deployment
from simulator.build_disaggregated import build_disaggregated


def test_a_server_over_nodes_is_a_leader_worker_set() -> None:
    what = export("experts on two nodes")
    file = files_of(what)[f"kubernetes-{name_of(what.servers[0])}.yaml"]
    group = next(yaml.safe_load_all(file))
    template = group["spec"]["leaderWorkerTemplate"]
    assert group["kind"] == "LeaderWorkerSet" and template["size"] == 2
    leader, worker = (template[f"{who}Template"]["spec"]["containers"][0]["args"][0] for who in ("leader", "worker"))
    assert "--data-parallel-size 16" in leader and "--data-parallel-size-local 8" in leader
    assert "--headless --data-parallel-start-rank $((LWS_WORKER_INDEX*8))" in worker


def test_nodes_join_by_ray_before_vllm_could_do_it_itself() -> None:
    what, name = export("two nodes"), "kubernetes-llama-3-1-405b-serve.yaml"
    new, old = files_of(what), files_of(at_version(what, "0.10"))
    assert "--nnodes 2 --node-rank" in new[name] and "--headless" in new[name] and "ray" not in new[name]
    assert "ray start --head" in old[name] and "ray start --address" in old[name] and "--nnodes" not in old[name]
    check_export(at_version(what, "0.10"), old)


def test_two_pools_become_an_inference_service_and_values_of_a_chart() -> None:
    files = files_of(export("pools"))
    service = yaml.safe_load(files["kserve.yaml"])
    assert service["kind"] == "LLMInferenceService"
    assert service["spec"]["parallelism"]["tensor"] == 2 and service["spec"]["prefill"]["parallelism"]["tensor"] == 1
    values = yaml.safe_load(files["llm-d-values.yaml"])
    assert values["decode"]["parallelism"] == {"tensor": 2, "data": 1, "dataLocal": 1, "workers": 1}
    assert values["decode"]["replicas"] == values["prefill"]["replicas"] == 2
    assert "--tensor-parallel-size" not in values["decode"]["containers"][0]["args"]
    assert not any(name.startswith("kubernetes-") for name in files)


def test_pools_over_nodes_are_written_for_what_can_have_them() -> None:
    """KServe takes pipelines over nodes, llm-d's chart does not; without either there are plain objects."""

    def files(decode: dict[str, int]) -> set[str]:
        pools = {"prefill": {"tp": 8}, "decode": decode}
        what = export_of(build_disaggregated("llama-3.1-70b", "h100-sxm:8x4", pools), requests())
        check_export(what, files_of(what))
        return {name.partition("-")[0] for name in files_of(what) if name.endswith(".yaml")}

    assert files({"tp": 8, "dp": 2}) == {"kserve.yaml", "llm"}
    assert files({"tp": 8}) == {"kserve.yaml", "llm"}
    assert files({"tp": 8, "pp": 2}) == {"kserve.yaml"}


def test_every_server_of_tensorrt_llm_has_its_own_options() -> None:
    files = files_of(export("pools of TensorRT-LLM"))
    assert "disable_overlap_scheduler" in files["options-prefill.yaml"]
    assert "disable_overlap_scheduler" not in files["options-decode.yaml"]
    assert "--extra_llm_api_options options-decode.yaml" in files["serve.sh"]
    assert "/etc/apex-sim/options-decode.yaml" in files["kubernetes-llama-3-1-8b-decode.yaml"]


def test_devices_are_selected_by_what_their_driver_calls_them() -> None:
    def selector(cluster: str) -> dict[str, str]:
        return node_selector(export_of(build_deployment("llama-3.2-1b", cluster), requests()).servers[0])

    assert selector("h100-sxm:1") == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert selector("a100-sxm-80gb:1") == {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    assert selector("t4:1") == {"nvidia.com/gpu.product": "Tesla-T4"}
    assert "nvidia.com/mig-3g.40gb: '1'" in files_of(export("slices"))["kubernetes-llama-3-1-8b-serve.yaml"]


def test_images_are_those_of_the_vendors_devices(tmp_path: Path) -> None:
    """No image for CUDA on other devices, and no manifest where none is known, unless it is given."""

    def image(cluster: str, engine: str) -> str | None:
        what = export_of(build_deployment("llama-3.2-1b", cluster, engine=engine), requests())
        file = files_of(what).get("kubernetes-llama-3-2-1b-serve.yaml")
        if file is None:
            return None
        return str(next(yaml.safe_load_all(file))["spec"]["template"]["spec"]["containers"][0]["image"])

    assert image("h100-sxm:1", "vllm-v1@0.8.5") == "vllm/vllm-openai:v0.8.5"
    assert image("mi300x:1", "vllm-v1@0.19") == "vllm/vllm-openai-rocm:v0.19.0"
    assert image("mi300x:1", "vllm-v1@0.12") is image("mi300x:1", "sglang") is image("gaudi2:1", "vllm-v1") is None
    assert image("epyc-9654:1", "vllm-v1") is image("max-1550:1", "vllm-v1") is None
    what = export_of(build_deployment("llama-3.2-1b", "mi300x:1", engine="sglang"), requests())
    assert "image: me/it:1" in files_of(what, "me/it:1")["kubernetes-llama-3-2-1b-serve.yaml"]
    plan = build_deployment("llama-3.2-1b", "mi300x:1", engine="sglang")
    apex_sim.export(plan, tmp_path, trace=requests())
    assert "No Kubernetes manifest: no image of sglang 0.5.5 for AMD" in (tmp_path / "README.md").read_text()
    apex_sim.export(plan, tmp_path, trace=requests(), image="me/it:1")
    assert "No Kubernetes manifest" not in (tmp_path / "README.md").read_text()
    with pytest.raises(UserError, match="no server of trtllm runs on mi300x"):
        image("mi300x:1", "trtllm")


def test_a_service_has_a_name_that_kubernetes_takes() -> None:
    server = export("one").servers[0]
    for model in ("org/3b-Instruct", "模型", "./my models/Odd 'name'/", "x" * 300, "org/.hidden_Model.v2"):
        assert re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name_of(dataclasses.replace(server, model=model)))


def test_servers_answer_other_machines() -> None:
    """SGLang and TensorRT-LLM listen to their own machine alone by default: no probe and no router would reach them."""
    for name, file in (
        ("sglang on two nodes", "kubernetes-llama-3-1-405b-serve.yaml"),
        ("sglang on two nodes", "serve-llama-3-1-405b-serve.sh"),
        ("trtllm on two nodes", "serve-llama-3-1-405b-serve.sh"),
        ("sglang", "serve.sh"),
        ("trtllm", "serve.sh"),
        ("trtllm", "kubernetes-llama-3-1-8b-serve.yaml"),
    ):
        text = files_of(export(name))[file]
        commands = (
            text.count("sglang.launch_server") + text.count("trtllm-serve") + text.count("- trtllm-llmapi-launch")
        )
        assert text.replace("\n        - ", " ").count("--host 0.0.0.0") == commands


def test_no_benchmark_goes_to_one_of_many_servers_by_default(tmp_path: Path) -> None:
    for name, many in (("one", False), ("moe replicas", True), ("pools", True)):
        files = files_of(export(name))
        (tmp_path / "bench.sh").write_text(files["bench.sh"])
        done = subprocess.run(
            ["/bin/sh", "bench.sh"], cwd=tmp_path, capture_output=True, text=True, env={"PATH": "/nowhere"}
        )
        assert ("sh bench.sh http://HOST:PORT" in done.stderr) is many
        assert ("bench.sh needs the address of" in files["serve.sh"]) is many


def test_servers_of_a_node_end_with_their_script(tmp_path: Path) -> None:
    (tmp_path / "vllm").write_text("#!/bin/sh\necho $$ >> pids\nexec sleep 60\n")
    (tmp_path / "vllm").chmod(0o755)
    (tmp_path / "serve.sh").write_text(files_of(export("moe replicas"))["serve.sh"])
    path = f"{tmp_path}:{os.environ['PATH']}"
    with subprocess.Popen(["sh", "serve.sh"], cwd=tmp_path, env={"PATH": path}) as script:
        pids = tmp_path / "pids"
        while not pids.exists() or len(pids.read_text().splitlines()) < 4:
            time.sleep(0.01)
        script.terminate()
    assert script.returncode == 143
    for pid in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def run_script(folder: Path, files: dict[str, str], name: str, *words: str, **env: str) -> list[list[str]]:
    """Words that the engines were called with by a script; engines that write them down and end."""
    (folder / "bin").mkdir(exist_ok=True)
    log = folder / "log"
    log.unlink(missing_ok=True)
    for engine in ("vllm", "python", "trtllm-serve", "ray"):
        tool = folder / "bin" / engine
        tool.write_text(f'#!/bin/sh\nwords=$(printf "%s\\037" {engine} "$@")\nprintf "%s\\n" "$words" >> {log}\n')
        tool.chmod(0o755)
    (folder / name).write_text(files[name])
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    subprocess.run(["sh", name, *words], cwd=folder, env={"PATH": path, **env}, check=True)
    return sorted(line.rstrip("\037").split("\037") for line in log.read_text().splitlines())


def test_the_scripts_run_what_they_say(tmp_path: Path) -> None:
    """By a real shell, with engines that only note down their arguments."""
    what = export("moe replicas")
    calls = run_script(tmp_path, files_of(what), "serve.sh")
    assert calls == [[*what.servers[0].command, "--port", str(8000 + i)] for i in range(4)]
    bench = run_script(tmp_path, files_of(what), "bench.sh", "http://there:80")
    assert bench == [["http://there:80" if word == "$URL" else word for word in what.benchmarks[0].command]]
    for name in ("two nodes", "experts on two nodes", "sglang on two nodes"):
        what = export(name)
        script = f"serve-{name_of(what.servers[0])}.sh"
        for rank in ("0", "1"):
            (call,) = run_script(tmp_path, files_of(what), script, HEAD="head", NODE_RANK=rank)
            read = parse(what.servers[0].engine, call)["flags"]
            place = (read.get("--node-rank"), read.get("--data-parallel-start-rank"))
            assert place == ((None, None if rank == "0" else 8) if name.startswith("experts") else (int(rank), None))
            assert read.get("--headless", False) is (rank == "1" and not name.startswith("sglang"))
    drafted = export("adapters and drafts")
    (call,) = run_script(tmp_path, files_of(drafted), "serve.sh")
    assert json.loads(call[call.index("--speculative-config") + 1])["num_speculative_tokens"] == 3


def test_kubernetes_knows_the_objects() -> None:
    """Against the API's own schemas, where the package is installed; of kinds that it does not know the pods in them."""
    validate = pytest.importorskip("kubernetes_validate")
    seen = set()
    for name in ("everything", "trtllm", "AMD", "moe replicas", "experts on two nodes", "two nodes", "pools"):
        for file, text in files_of(export(name), place=Place(volume_claim="weights", namespace="serving")).items():
            if file.startswith("kubernetes-") or file == "kserve.yaml":
                for document in yaml.safe_load_all(text):
                    for known in known_objects(document):
                        validate.validate(known, validate.latest_version(), strict=True)
                        seen.add(known["kind"])
                        assert document["metadata"]["namespace"] == "serving"
    assert seen == {"ConfigMap", "Deployment", "Pod", "Service"}
    with pytest.raises(validate.ValidationError):
        validate.validate(
            {"apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": {"port": 1}}, "1.30", strict=True
        )


def test_pods_of_llmd_have_probes_at_their_own_port() -> None:
    """As the chart gives --port: prefill servers the service's, decode servers behind the proxy its target."""
    values = yaml.safe_load(files_of(export("pools"))["llm-d-values.yaml"])
    for role, port in (
        ("prefill", values["routing"]["servicePort"]),
        ("decode", values["routing"]["proxy"]["targetPort"]),
    ):
        (container,) = values[role]["containers"]
        probes = [container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
        assert probes == [{"path": "/health", "port": port}] * 3
        assert container["startupProbe"]["failureThreshold"] >= 60
    assert values["routing"]["proxy"]["targetPort"] == 8200


def known_objects(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The object itself, or the pods of one that is not Kubernetes' own."""
    spec = document.get("spec", {})
    if document["kind"] == "LeaderWorkerSet":
        group = spec["leaderWorkerTemplate"]
        pods = [group["leaderTemplate"], group["workerTemplate"]]
    elif document["kind"] == "LLMInferenceService":
        pods = [{"metadata": {}, "spec": spec["template"]}, {"metadata": {}, "spec": spec["prefill"]["template"]}]
    else:
        return [document]
    return [{"apiVersion": "v1", "kind": "Pod", **pod} for pod in pods]


def test_the_command_line_writes_it_and_reads_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, plan, again = tmp_path / "first", tmp_path / "plan.json", tmp_path / "again"
    line = ["plan", "--model", "llama-3.2-1b", "--cluster", "l4:1", "--num-requests", "40", "--slo", "ttft=5s"]
    assert main([*line, "--jobs", "1", "--top", "1", "--json", str(plan), "--export", str(first)]) == 0
    assert main(["export", str(plan), "--out", str(again)]) == 0
    names = {path.name for path in again.iterdir()}
    assert names | {"replay.sh", "trace.jsonl"} == {path.name for path in first.iterdir()}
    assert {"README.md", "bench.sh", "expected.json"} <= names
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names - {"README.md"})
    assert "wrote serve.sh" in capsys.readouterr().out
    assert main(["export", str(first / "export.json"), "--out", str(again), "--image", "me/it:1"]) == 0
    assert "image: me/it:1" in (again / "kubernetes-llama-3-2-1b-serve.yaml").read_text()


def test_python_exports_plans_and_deployments(tmp_path: Path) -> None:
    pair = made("pools")
    files = apex_sim.export(pair, tmp_path / "a", trace=requests(), slo="ttft=1s", engine_version="0.33", image="me/it")
    assert {file.name for file in files} >= {"kserve.yaml", "llm-d-values.yaml", "replay.sh", "README.md"}
    again = apex_sim.export(tmp_path / "a" / "export.json", tmp_path / "b")
    assert {file.name for file in files} - {file.name for file in again} == {"replay.sh", "trace.jsonl"}
    assert "v0.33.0" in (tmp_path / "b" / "kserve.yaml").read_text()
    with pytest.raises(UserError, match="does not say what it serves"):
        apex_sim.export(pair, tmp_path / "c")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list"),
        ("{}", "has no 'export'"),
        ('{"export": {"format": 1, "servers": [{}]}}', "is damaged"),
        ('{"export": {"refused": "nobody ships it"}}', "nobody ships it"),
    ],
)
def test_bad_input_is_one_line(content: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    file.write_text(content)
    assert main(["export", str(file), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_damaged_exports_are_one_line(tmp_path: Path) -> None:
    """Every field of a server and of the benchmark in turn with a value of another kind: read, or refused in one line."""
    good = to_json_values(export("one"))
    file = tmp_path / "export.json"
    for part in ("servers", "benchmarks"):
        for name in good[part][0]:
            for value in (None, {}, -1):
                data = json.loads(json.dumps(good))
                data[part][0][name] = value
                file.write_text(json.dumps(data))
                with suppress(UserError):
                    read_export(str(file))
    file.write_text(json.dumps(good | {"servers": []}))
    with pytest.raises(UserError, match="'export' is damaged"):
        read_export(str(file))


def test_too_little_memory_is_the_users_mistake(tmp_path: Path) -> None:
    """More KV blocks than the device has room for: vLLM would try, and fail."""
    plan = build_deployment("llama-3.1-8b", "h100-sxm:1", num_gpu_blocks_override=100_000)
    with pytest.raises(UserError, match=r"^llama-3-1-8b-serve: weights, activations and KV cache need .* out$"):
        apex_sim.export(plan, tmp_path / "x", trace=requests())
    assert not (tmp_path / "x").exists()


def test_what_nobody_ships_is_refused_before_the_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "--model", "llama-3.2-1b", "--cluster", "l4:1", "--engine", "orca", "--export", str(tmp_path / "x")]
    assert main(line) == 2
    assert "nobody ships the engine orca" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_claim_takes_the_place_of_every_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(volume_claim="weights", namespace="serving")
    for name in ("everything", "two nodes", "moe replicas"):
        plain, there = files_of(export(name)), files_of(export(name), place=place)
        for file in (file for file in plain if file.startswith("kubernetes-")):
            claims = there[file].count("claimName: weights")
            assert claims == plain[file].count("emptyDir: {}") > 0 and "emptyDir: {}" not in there[file]
        assert {file: text for file, text in plain.items() if not file.startswith("kubernetes-")} == {
            file: text for file, text in there.items() if not file.startswith("kubernetes-")
        }
    pools = files_of(export("pools"), place=place)
    assert "uri: pvc+hf://weights/hub/meta-llama/" in pools["llm-d-values.yaml"]
    apex_sim.export(made("pools"), tmp_path, trace=requests(), volume_claim="weights", namespace="serving")
    assert {file.good for file in apex_sim.check_export(tmp_path)} == {True}
    readme = (tmp_path / "README.md").read_text()
    assert "claim weights has to exist in the namespace serving" in readme and "-n serving" in readme
    assert "only reads the claim" in readme and "kserve.yaml leaves the claim out" in readme


@pytest.mark.parametrize("flag", ["--volume-claim", "--namespace"])
def test_names_that_kubernetes_refuses(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    apex_sim.export(made("pools"), tmp_path / "a", trace=requests())
    plan = str(tmp_path / "a" / "export.json")
    for name in ("My Weights", "x-", "a" * 300, ""):
        assert main(["export", plan, "--out", str(tmp_path / "b"), flag, name]) == 2
        assert capsys.readouterr().err.startswith(f"apex-sim: error: {flag} is ")
    assert not (tmp_path / "b").exists()
    assert main(["export", "--check", str(tmp_path / "a"), flag, "weights"]) == 2
