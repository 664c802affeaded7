"""The plan for GPUs you don't have: counts of kernels, and the estimates from them."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models import CLIPConfig
from scripts.benchmark import main
from scripts.benchmarks import model as benchmark_model
from scripts.benchmarks.plan import Plan, count_plan, count_step
from scripts.benchmarks.roofline import Device, Roofline, Shares, kept_bytes
from utils.errors import InputError


def test_a_kernel_takes_what_takes_it_longest():
    device = Device(half=2e12, single=1e12, bandwidth=1e9, memory=1e9, link=1e9)
    with FakeTensorMode(), Roofline(device, Shares(arithmetic=0.5, bandwidth=0.5, start=1e-3)) as roofline:
        square = torch.empty(8000, 8000)
        square @ square
        square.bfloat16() @ square.bfloat16()
        torch.ones(3).add_(1).view(1, 3)
    operations = 2 * 8000**3
    assert roofline.flops == 2 * operations
    assert roofline.seconds["arithmetic"] == pytest.approx(operations / 0.5e12 + operations / 1e12)
    assert roofline.seconds["memory bandwidth"] == pytest.approx(2 * 6 * 8000**2 / 0.5e9 + 4 * 8000**2 / 0.5e9)
    assert roofline.seconds["starting kernels"] == pytest.approx(2e-3)


def test_what_the_backward_pass_keeps_is_counted_once():
    layer, x = torch.nn.Linear(10, 20, bias=False), torch.ones(5, 10)
    with kept_bytes(list(layer.parameters())) as sizes:
        hidden = layer(x)
        (hidden * hidden).sum()
    assert sum(sizes) == 4 * (5 * 10 + 5 * 20)


@pytest.fixture
def tiny_model(monkeypatch):
    monkeypatch.setattr(benchmark_model, "SIZES", CLIPConfig(16, 8, 64, 1, 64, 1, 64, vocabulary=90))


def planned(tmp_path, *words):
    """The plan of small towers by row."""
    file = tmp_path / "plan.json"
    main(["plan", "--gpus", "2", "--batch_size", "4", "--threads", "1", *words, "--json", str(file)])
    return {row["case"]: row["value"] for row in json.loads(file.read_text())["rows"]}


def test_a_plan_follows_the_machine_and_the_data(tmp_path, tiny_model):
    slow = planned(tmp_path, "--gpu", "a100", "--cores", "4")
    saving = planned(tmp_path, "--gpu", "h100", "--grad_checkpointing", "--decoded", "1000000", "--augment_ms", "0")
    assert slow["network, s"] > saving["network, s"] > 0
    assert slow["bottleneck"] == "loader"
    assert slow["step, s"] == slow["loader, s"] == pytest.approx((15 * 30 / 7500 + 12 * 0.001) * 2 / 4)
    assert slow["epoch, min"] == pytest.approx(180_000 / 4 * slow["step, s"] / 60)
    assert saving["matrix products, TFLOP"] > slow["matrix products, TFLOP"]
    assert saving["memory of a GPU, GB"] < slow["memory of a GPU, GB"]
    assert saving["bottleneck"] == "host" and saving["step, s"] == saving["host, s"] > saving["loader, s"]
    assert saving["host, s"] == pytest.approx(12e-6 * saving["kernels"])


def test_machines_are_linked_more_slowly_than_gpus(tmp_path, tiny_model):
    one = planned(tmp_path, "--precision", "fp32")
    fast, slow = (planned(tmp_path, "--precision", "fp32", "--nodes", "2", "--link", link) for link in ("400", "1"))
    assert one["network, s"] < fast["network, s"] < slow["network, s"]
    assert slow["bottleneck"] == "network" and slow["loader, s"] == one["loader, s"] / 2


def test_a_plan_counts_what_a_gpu_runs(tmp_path, tiny_model):
    """Fused attention and its arithmetic, no activation checkpoints; bfloat16 on the CPU has neither."""
    plan = Plan(2, "a100", 1, 100, "msrvtt", 4, 5, "bf16", False, 8, 7500, 30, 1.0)
    with FakeTensorMode(), Roofline(plan.device, Shares()) as roofline:
        square = torch.empty(1, 1, 64, 64, requires_grad=True)
        out = torch.nn.functional.scaled_dot_product_attention(square, square, square)
        assert roofline.flops == 2 * 2 * 64**3
        out.sum().backward()
    assert roofline.flops == 7 * 2 * 64**3
    counted = count_plan(plan)
    with FakeTensorMode():
        on_cpu, kept = count_step(benchmark_model.random_model().train(), plan, Roofline(plan.device, Shares()))
    assert counted.roofline.kernels < 0.9 * on_cpu.kernels
    assert counted.kept > kept


@pytest.mark.slow
def test_the_documented_plans_are_what_is_counted(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "performance.md").read_text()
    rows = re.findall(r"^\| `(plan [^`]*)` \|.*$", page, re.M)
    assert len(rows) == 3
    table = [plan_row(tmp_path, row) for row in rows]
    print(*table, sep="\n")
    assert all(row in page.splitlines() for row in table)


def plan_row(tmp_path, command: str) -> str:
    """A row of the table in docs/performance.md."""
    file = tmp_path / "plan.json"
    main([*command.split(), "--json", str(file)])
    values = {row["case"]: row["value"] for row in json.loads(file.read_text())["rows"]}
    kernels = sum(values[f"{part}, s"] for part in ("arithmetic", "memory bandwidth", "starting kernels"))
    seconds = (kernels, *(values[f"{part}, s"] for part in ("network", "host", "loader", "step")))
    cells = [f"`{command}`", *(f"{value:.3f} s" for value in seconds)]
    cells += [f"{values['memory of a GPU, GB']:.1f} GB", f"{values['epoch, min']:.1f} min", values["bottleneck"]]
    return f"| {' | '.join(cells)} |"


def test_a_plan_for_gpus_that_do_not_divide_the_batch_is_refused():
    with pytest.raises(InputError, match="--batch_size 128: cannot be divided among 3 GPUs"):
        main(["plan", "--gpus", "3"])
