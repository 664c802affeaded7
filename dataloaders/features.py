"""Loading precomputed tensors, and encoding batches while they are loaded."""

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.utils.data import DataLoader

from dataloaders.base import Items

Batch = dict[str, Tensor]


class Rows(Items):
    """A data set of named tensors: item i is {name: tensor[i]}."""

    def __init__(self, tensors: Batch):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> Batch:
        return {name: tensor[index] for name, tensor in self.tensors.items()}

    def name(self, index: int) -> str:
        """The name of an item in messages."""
        return f"pair {index}"


class EncodedLoader:
    """A loader whose batches go through an encoder."""

    def __init__(self, loader: DataLoader, encode: Callable[[Batch], Batch]):
        self.loader, self.encode = loader, encode
        self.dataset, self.sampler, self.batch_size = loader.dataset, loader.sampler, loader.batch_size

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.encode, self.loader)
