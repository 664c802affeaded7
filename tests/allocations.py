"""What operations allocate, to see that something large is never made."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Notes, as a context manager, the tensors that operations make; views and results in place apart."""

    def __init__(self):
        super().__init__()
        self.numbers: list[int] = []  # of each allocation
        self._kept: dict[int, torch.UntypedStorage] = {}  # so that no address comes twice

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        given = [x.untyped_storage().data_ptr() for x in tree_leaves((arguments, options)) if torch.is_tensor(x)]
        result = function(*arguments, **(options or {}))
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in {*given, *self._kept}:
                self._kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
                self.numbers.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return result
