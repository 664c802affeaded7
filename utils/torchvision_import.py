"""Import torchvision where its compiled operators do not fit the installed torch.

A CUDA build of torchvision beside a CPU build of torch cannot load its compiled operators, and importing it then fails
while it registers fake kernels for two of them. Nothing here runs those operators, so declaring them is enough. Modules
that use torchvision, or a library that imports it (timm, open_clip), import this module first.
"""

import torch

OPERATOR_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_torchvision() -> torch.library.Library | None:
    """Import torchvision, declaring the operators it looks for if its own library cannot be loaded.

    Returns:
        The declarations, which last as long as this object does, or None where torchvision needed no help.

    Raises:
        RuntimeError: torchvision fails for another reason.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return None
    declarations = torch.library.Library("torchvision", "DEF")
    for schema in OPERATOR_SCHEMAS:
        declarations.define(schema)
    import torchvision  # noqa: F401

    return declarations


OPERATOR_DECLARATIONS = import_torchvision()
