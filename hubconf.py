"""Entry points of torch.hub: `torch.hub.load(FOLDER_OR_REPOSITORY, "load_model", "USER/MODEL")`."""

dependencies = ["torch", "huggingface_hub", "safetensors", "pydantic", "ftfy", "regex", "faiss"]

from models import load_model  # noqa: E402, F401
