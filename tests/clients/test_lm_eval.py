"""lm-eval from its own package: accuracy off, exact and adaptive on the demo pair's held-out tasks, and likelihoods."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from adasd.demo.tasks import Example, Task, heldout
from tests.clients.conftest import MODEL, TOKENIZER
from tests.clients.environments import run
from tests.e2e.server import ROOT, Server

pytestmark = [pytest.mark.clients, pytest.mark.cluster]

TASKS = Path(__file__).parent / "lm_eval_tasks"
PER_TASK = 12
NUM_CHOICES = 4


def row(example: Example) -> dict[str, Any]:
    return {**asdict(example), "task": example.task.value}


def evaluate(
    server: Server,
    hub: Path,
    folder: Path,
    model: str,
    path: str,
    tasks: str,
    rows: list[dict],
    *options: str,
) -> dict[str, dict[str, float]]:
    """lm-eval's results by task; its tasks read ``rows`` from a file, as datasets do."""
    (folder / "data").mkdir()
    (folder / "data" / "test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    for file in TASKS.iterdir():
        if file.is_file():
            text = file.read_text().replace("dataset_path: json", f"dataset_path: json\n{DATA_FILES}")
            (folder / file.name).write_text(text if file.suffix == ".yaml" else file.read_text())
    where = f"model={MODEL},base_url={server.url}{path},num_concurrent=4,max_retries=1"
    tokenizer = f"tokenizer={TOKENIZER},tokenizer_backend=huggingface"
    command = [
        *("lm_eval", "--model", model, "--model_args", f"{where},{tokenizer}", "--include_path", str(folder)),
        *("--tasks", tasks, "--apply_chat_template", "--output_path", str(folder / "out"), *options),
    ]
    done = run("lm_eval", command, folder, HF_HOME=str(hub), PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (file,) = (folder / "out").rglob("results_*.json")
    results: dict[str, dict[str, float]] = json.loads(file.read_text())["results"]
    return results


DATA_FILES = "dataset_kwargs:\n  data_files:\n    test: data/test.jsonl"


@pytest.mark.timeout(400)
def test_exact_is_as_good_as_off_to_the_letter_and_adaptive_nearly(server: Server, hub: Path, tmp_path: Path):
    rows = [row(example) for task in Task for example in heldout(task, PER_TASK)]
    tasks = "demo_off,demo_exact,demo_adaptive"
    found = evaluate(server, hub, tmp_path, "local-chat-completions", "/v1/chat/completions", tasks, rows)
    off, exact, adaptive = (found[name] for name in tasks.split(","))
    assert off["solved,none"] > 0.8
    assert exact["solved,none"] == off["solved,none"]
    assert exact["text_hash,none"] == off["text_hash,none"]
    assert adaptive["text_hash,none"] != off["text_hash,none"], "nothing was relaxed: the test says nothing"
    assert adaptive["solved,none"] >= off["solved,none"] - 0.1


@pytest.mark.timeout(300)
def test_the_right_answer_is_the_likeliest(server: Server, hub: Path, tmp_path: Path):
    """Prompts as token ids, echoed with log-probabilities; the choices are answers to other questions."""
    examples = heldout(Task.EXTRACTION, 12)
    rows = []
    for place, example in enumerate(examples):
        others = [examples[(place + step) % len(examples)].answer for step in range(1, NUM_CHOICES)]
        right = place % NUM_CHOICES
        rows.append(
            {**row(example), "choices": [*others[:right], example.answer, *others[right:]], "right": right}
        )
    found = evaluate(server, hub, tmp_path, "local-completions", "/v1/completions", "demo_choice", rows)
    assert found["demo_choice"]["acc,none"] >= 11 / 12
