"""Devices and precisions, without a GPU."""

import pytest
import torch

from utils import distributed
from utils.devices import set_precision
from utils.errors import InputError


@pytest.fixture
def gpus(monkeypatch):
    """So many GPUs that can be seen."""

    def show(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)

    return show


@pytest.mark.parametrize(("count", "local_rank", "processes", "number"), [(8, 3, 8, 3), (1, 3, 8, 0), (1, 0, 1, 0)])
def test_each_process_has_its_gpu(count, local_rank, processes, number, gpus, monkeypatch):
    gpus(count)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert distributed.start(None, local_rank) == torch.device("cuda", number)


def test_more_processes_than_gpus_are_refused(gpus, monkeypatch):
    gpus(2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(InputError, match="GPU number 2 is not there, 2 can be seen"):
        distributed.start(None, 2)


@pytest.mark.parametrize(("precision", "products"), [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_float32_means_what_the_flag_says(precision, products):
    assert set_precision(precision, torch.device("cpu")).endswith(products)
    assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == (products == "tf32")
    set_precision("fp32", torch.device("cpu"))


def test_bfloat16_on_a_card_without_it_is_refused(gpus, monkeypatch):
    gpus(1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(InputError, match="this GPU has no bfloat16; give fp16"):
        set_precision("bf16", torch.device("cuda", 0))
