"""The commands of the documentation: where they stand, the files they need, and which of them are long."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
NAMED_YAML = re.compile(r"^# ([\w-]+\.ya?ml)\b")
REQUESTS = "arrival_s,input_tokens,output_tokens\n" + "".join(f"{0.5 * i},{300 + 7 * i},{20 + i}\n" for i in range(40))
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{i:02d}.0000000,{300 + 7 * i},{20 + i}\n" for i in range(40)
)
MOONCAKE = "".join(
    f'{{"timestamp": {1000 * i}, "input_length": 600, "output_length": 20, "hash_ids": [{i}, 999]}}\n'
    for i in range(40)
)
WORKLOAD = "rate_per_s: 2\nnum_requests: 40\ninput_len: 300\noutput_len: 50\n"
LENGTHS = "input_tokens,output_tokens\n" + "".join(f"{300 + 7 * i},{20 + i}\n" for i in range(40))
STAND_INS = {
    "AzureLLMInferenceTrace_conv.csv": AZURE,
    "azure_conv.csv": AZURE,
    "my.csv": REQUESTS,
    "workload.yaml": WORKLOAD,
    "lengths.csv": LENGTHS,
    "bad.csv": "arrival_s,input_tokens,output_tokens\n0,5,5\n1,-3,5\n",
    "mooncake.jsonl": MOONCAKE,
    "my-gpu.yaml": (ROOT / "hardware_profiles" / "devices" / "h100-sxm.yaml").read_text(encoding="utf-8"),
    "my-model/config.json": json.dumps(
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096}
        | {"num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}
        | {"max_position_embeddings": 8192, "torch_dtype": "bfloat16", "tie_word_embeddings": False}
    ),
}
"""Files that a reader has and the test makes up."""
FIRST_YAML = {
    "models.yaml": "several_models.md",
    "services.yaml": "oversubscribe.md",
    "my_runs.yaml": "validation.md",
}
"""Files that are the first YAML block of a page."""

TEMPLATES = ("apex-sim COMMAND", "...", "my_case.yaml", "my_goals.yaml", "suite.yaml", "HOST:6379")
"""Parts of lines that show a form, or whose file or cluster is the reader's own; they are parsed by nobody."""
DEVICE = ("calibrate --device", "calibrate --serve", "my-h200", "served/runs.yaml", "cpu.yaml")
"""Needs a device to measure, minutes of it, or what it left behind."""
SLOW = (
    "apex-sim calibrate --from",
    "apex-sim power",
    "apex-sim gpus",
    "apex-sim experts",
    "apex-sim validate",
    "apex-sim reproduce run",
    "apex-sim check",
    "apex-sim sweep",
    "--autoscale",
    "--search",
    "placement.json",
    "apex-sim plan --model llama-3.1-70b",
    "apex-sim plan --model meta-llama/Llama-3.1-70B",
    "apex-sim plan --model llama-3.1-8b --cluster l40s:4",
    "--sm-split proactive",
    "--lora-loading paged",
    "--expert-cache-size",
    "--num-requests 20000",
)
"""Commands of some seconds or more: `pytest -m slow tests/test_docs.py`."""
FAILS = {
    "reproduce run all --json": 1,  # some checks of grade B are outside their bands, as the page says
    "--slo ttft=1ms": 2,
    "--slo tpot=5ms": 2,
    "--cluster h100-sxm:1\x00llama-3.1-70b": 2,
    "bad.csv": 2,
}
"""Commands shown because they are refused, with the exit code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One line of a page."""

    page: str
    line: int
    text: str

    @property
    def argv(self) -> list[str]:
        """What follows apex-sim, without what the shell does."""
        words = shlex.split(self.text, comments=True)[1:]
        cut = next((i for i, word in enumerate(words) if word in ("|", ">", "&&")), len(words))
        return [file for word in words[:cut] for file in (_matches(word) if "*" in word else [word])]

    @property
    def kind(self) -> str:
        """template, device, slow or quick."""
        for kind, parts in (("template", TEMPLATES), ("device", DEVICE), ("slow", SLOW)):
            if any(part in self.text for part in parts):
                return kind
        return "quick"

    @property
    def exit_code(self) -> int:
        """As the page shows it."""
        for parts, code in FAILS.items():
            shown, _, model = parts.partition("\x00")
            if (shown in self.text and not model) or (model and self.text.endswith(f"--model {model} {shown}")):
                return code
        return 0


def _matches(pattern: str) -> list[str]:
    """Files of the repository, as the shell names them; a word that is no pattern of files stays."""
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)) or [pattern]


def pages() -> list[Path]:
    """Every page that people read."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> Iterator[Command]:
    """The lines of fenced blocks that begin with apex-sim, or with $ apex-sim."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        if match[1] not in ("", "sh", "bash", "console"):
            continue
        begin = text.count("\n", 0, match.start(2)) + 1
        lines = match[2].split("\n")
        i = 0
        while i < len(lines):
            line, number = lines[i].removeprefix("$ "), begin + i
            while line.endswith("\\") and i + 1 < len(lines):
                i += 1
                line = line[:-1] + " " + lines[i].strip()
            if line.startswith("apex-sim "):
                yield Command(page=page.name, line=number, text=line)
            i += 1


def lay_out(page: Path, folder: Path) -> None:
    """The files that the commands of a page need: made up, or from its YAML blocks that begin with '# NAME.yaml'."""
    for name, text in STAND_INS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for name, owner in FIRST_YAML.items():
        blocks = [m[2] for m in BLOCK.finditer((ROOT / "docs" / owner).read_text(encoding="utf-8")) if m[1] == "yaml"]
        (folder / name).write_text(blocks[0], encoding="utf-8")
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        named = NAMED_YAML.match(match[2]) if match[1] == "yaml" else None
        if named is not None:
            (folder / named[1]).write_text(match[2], encoding="utf-8")
    (folder / "checks").symlink_to(ROOT / "checks")
