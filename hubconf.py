"""Entry points of torch.hub: `torch.hub.load(FOLDER_OR_REPOSITORY, "load_model", "USER/MODEL")`."""

from models import load_model

__all__ = ["load_model"]
dependencies = ["torch", "huggingface_hub", "safetensors", "pydantic", "ftfy", "regex"]
