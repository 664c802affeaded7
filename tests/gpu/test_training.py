"""Training on a GPU: host-device syncs, memory, speed, kernels, loss scaling, resume, processes."""

import itertools
from collections import Counter

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.profiler import ProfilerActivity, profile

from tests.gpu.conftest import DEVICE, ON_CUDA, batch, build, median_seconds, needs_cuda, trainer
from utils.devices import autocast, to_device
from utils.distributed import any_rank, barrier
from utils.engine.builders import compile_towers
from utils.gather import gather_features, gather_shards

TEACHERS = ({"teacher": "exact"}, {"teacher": "estimator"})
PAIRS = 16


def train(training, data, steps):
    for number in range(steps):
        training.step(data, number, update=True)


@needs_cuda
@pytest.mark.parametrize(("precision", "syncs"), [("fp32", 1), ("bf16", 1), ("fp16", 2)])
def test_a_step_waits_for_the_device_once(precision, syncs, recwarn):
    training, data = trainer(build(teacher="exact"), precision=precision), to_device(batch(), DEVICE)
    train(training, data, 3)
    recwarn.clear()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        training.step(data, 3, update=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum("synchroniz" in str(warning.message) for warning in recwarn) == syncs


@needs_cuda
@pytest.mark.parametrize("options", TEACHERS, ids=lambda options: options["teacher"])
def test_forward_backward_and_optimiser_never_wait(options):
    training, data = trainer(build(**options), precision="bf16"), to_device(batch(), DEVICE)
    train(training, data, 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with autocast(DEVICE, "bf16"):
            loss = training.model(**data)["loss"]
        loss.backward()
        training.optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_loss_scaling_settles():
    training = trainer(build(teacher="exact"), precision="fp16", lr=1e-5)
    data, skipped = batch(), []
    for number in range(60 if ON_CUDA else 12):
        terms = training.step(data, number, update=True)
        skipped.append(not training.finite)
        assert all(not value.isnan().any() for value in terms.values())
    assert sum(skipped) <= 8 and not any(skipped[-len(skipped) // 3 :])


@needs_cuda
@pytest.mark.parametrize("checkpointed", [False, True])
def test_memory_of_a_step(checkpointed):
    peaks = []
    for enabled in (False, checkpointed):
        model = build(teacher="exact")
        model.clip.set_grad_checkpointing(enabled)
        training, data = trainer(model, precision="bf16"), to_device(batch(PAIRS), DEVICE)
        train(training, data, 2)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        training.step(data, 2, update=True)
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del training, model
    if checkpointed:
        assert peaks[1] <= 0.75 * peaks[0]
    print(f"peak above weights and moments: {[round(peak / 2**20) for peak in peaks]} MB")


@needs_cuda
def test_memory_does_not_grow_with_ragged_batches():
    training, reserved = trainer(build(teacher="exact"), precision="bf16"), []
    for number in range(60):
        training.step(batch(64, seed=number), number, update=True)
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] <= 1.05 * reserved[19]


@needs_cuda
def test_attention_of_the_towers_is_fused():
    training, data = trainer(build(), precision="bf16"), to_device(batch(PAIRS), DEVICE)
    train(training, data, 2)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        training.step(data, 2, update=True)
        torch.cuda.synchronize()
    names = Counter(event.key for event in profiler.key_averages())
    assert any("flash" in name or "cudnn" in name.lower() or "efficient" in name for name in names)
    assert not any("_scaled_dot_product_attention_math" in name for name in names)


@needs_cuda
def test_step_time():
    training, data = trainer(build(teacher="exact"), precision="bf16"), to_device(batch(PAIRS), DEVICE)
    train(training, data, 10)
    numbers = itertools.count(10)
    seconds = median_seconds(lambda: training.step(data, next(numbers), update=True))
    print(f"{torch.cuda.get_device_name()}: {PAIRS} pairs in bf16, {seconds * 1000:.1f} ms a step")
    assert seconds < 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_restored_state_continues_with_the_same_bits(precision):
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        data = [batch(4, seed=number) for number in range(6)]
        whole = trainer(build(teacher="exact"), precision=precision)
        for number, one in enumerate(data):
            whole.step(one, number, update=True)
        first = trainer(build(teacher="exact"), precision=precision)
        for number in range(3):
            first.step(data[number], number, update=True)
        second = trainer(build(teacher="exact"), precision=precision)
        second.load_state(first.state())
        for number in range(3, 6):
            second.step(data[number], number, update=True)
    finally:
        torch.use_deterministic_algorithms(False)
    for (name, expected), found in zip(whole.model.named_parameters(), second.model.parameters(), strict=True):
        assert torch.equal(expected, found), name


@pytest.mark.parametrize("options", [*TEACHERS, {"recipe": "corrected"}], ids=["exact", "estimator", "corrected"])
def test_a_deterministic_step_repeats_its_bits(options):
    torch.use_deterministic_algorithms(True)
    try:
        gradients = []
        for _ in range(2):
            model = build(**options).to(DEVICE).train()
            torch.manual_seed(1)
            model(**to_device(batch(4), DEVICE))["loss"].backward()
            gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_answers_train_on_the_device():
    model, data = build(answers=5, teacher="exact"), batch(4)
    training = trainer(model)
    terms = training.step(data | {"labels": torch.arange(4)}, 0, update=True)
    assert training.finite and terms["loss"].isfinite()


def one_process(rank: int, folder: str) -> None:
    """A group of one process on the device: collectives and a step under DDP."""
    torch.set_num_threads(1)
    backend = "cpu:gloo,cuda:nccl" if ON_CUDA else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=1)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool):
        for size in (0, 1, 5):
            shard = torch.ones(size, 3, dtype=dtype, device=DEVICE)
            assert torch.equal(gather_shards(shard), shard)
    features = torch.ones(2, 3, device=DEVICE, requires_grad=True)
    assert torch.equal(gather_features(features, exact=True), features)
    barrier()
    assert any_rank(True, False) == [True, False]
    plain, wrapped = trainer(build()), trainer(build())
    wrapped.parallel = torch.nn.parallel.DistributedDataParallel(wrapped.model, broadcast_buffers=False)
    for training in (plain, wrapped):
        training.step(batch(4), 0, update=True)
    for expected, found in zip(plain.model.parameters(), wrapped.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    dist.destroy_process_group()


def test_a_group_of_one_process(tmp_path):
    mp.spawn(one_process, (str(tmp_path),), nprocs=1)


def one_of_two(rank: int, folder: str) -> None:
    """Two processes on one device by gloo: the gradient of the whole batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = build(recipe="corrected").to(DEVICE).train()
    parallel = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    torch.manual_seed(1)
    parallel(**to_device(half(rank), DEVICE))["loss"].backward()
    if rank == 0:
        torch.save({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}, f"{folder}/grad")
    barrier()
    dist.destroy_process_group()


def half(rank: int) -> dict[str, torch.Tensor]:
    data = batch(8)
    frames = data["video_mask"].sum(dim=1).split(4)
    first = int(frames[0].sum())
    own = {name: value.split(4)[rank] for name, value in data.items() if name != "frames"}
    return own | {"frames": data["frames"][:first] if rank == 0 else data["frames"][first:]}


def test_two_processes_share_one_device(tmp_path):
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    model = build(recipe="corrected").to(DEVICE).train()
    torch.manual_seed(1)
    model(**to_device(batch(8), DEVICE))["loss"].backward()
    together = torch.load(tmp_path / "grad", weights_only=True)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            difference = (together[name] - parameter.grad.cpu()).norm()
            assert difference <= 1e-4 * parameter.grad.norm().cpu() + 1e-7, name


@needs_cuda
def test_compiled_blocks_compute_the_same():
    data, losses = to_device(batch(), DEVICE), []
    for compiled in (False, True):
        model = build(teacher="exact").to(DEVICE).train()
        keys = set(model.state_dict())
        if compiled:
            compile_towers(model)
        with autocast(DEVICE, "bf16"):
            losses.append(model(**data)["loss"].detach())
        assert set(model.state_dict()) == keys
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=0)
