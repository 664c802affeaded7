"""The model card of an export: method, training data, metrics, limits."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from utils.config import RunConfig
from utils.logger import used

PAPERS = {
    "hbi": (
        "2303.14369",
        "Video-Text as Game Players: Hierarchical Banzhaf Interaction for Cross-Modal Representation Learning",
    ),
    "clip4clip": ("2104.08860", "CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval"),
    "drl": ("2203.07111", "Disentangled Representation Learning for Text-Video Retrieval"),
    "emcl": (
        "2211.11427",
        "Expectation-Maximization Contrastive Learning for Compact Video-and-Language Representations",
    ),
    "dicosa": ("2305.12218", "Text-Video Retrieval with Disentangled Conceptualization and Set-to-Set Alignment"),
    "diffusionret": ("2303.09867", "DiffusionRet: Generative Text-Video Retrieval with Diffusion Model"),
}
"""Number on arXiv and title of each method's paper; the number begins with year and month."""
CARD = """---
{{ card_data }}
---
# {{ heading }}

A model of the method `{{ method }}` of [{{ title }}](https://arxiv.org/abs/{{ arxiv }}).

The image tower has patches of {{ clip.patch }} pixels and frames of {{ clip.resolution }} pixels; a token has
{{ clip.embed_dim }} features.

## Use

In a clone of the project, with `load_model("USER/MODEL")` or the path of this folder:

```python
from models import load_model

model = load_model("USER/MODEL")
{{ call }}
```

## Data

{{ data }}

## Metrics

{{ metrics }}

## Limits

- It is meant for research. It inherits the biases and errors of its data and of CLIP's.
- It was trained with at most {{ frames }} frames of a video (`max_frames={{ frames }}`) and {{ words }} tokens of a
  text (`max_words={{ words }}`), ignores sound, and knows English best.
- {{ bounds }}
- Figures of one run on one data set; they say little about other videos.

## Citation

```bibtex
@misc{ {{- method }},
  title         = { {{- title -}} },
  year          = { {{- year -}} },
  eprint        = { {{- arxiv -}} },
  archivePrefix = {arXiv}
}
```
"""


class Task(NamedTuple):
    """A task in the card: its name, how the model is called, limits."""

    name: str
    call: str
    bounds: str


RETRIEVAL = Task(
    "text-video retrieval",
    'text, video = model.encode_text(["a dog runs"]), model.encode_video(["my_video.mp4"])\n'
    "print(model.similarity(text, video))",
    "A similarity ranks videos; it is no probability.",
)
TASKS = {
    "answers": Task(
        "video question answering",
        'print(model.answer("what runs?", "my_video.mp4"))',
        "It chooses one of its answers, whether or not one of them is true.",
    ),
    "describe": Task(
        "video captioning",
        'print(model.describe("my_video.mp4").caption)',
        "Its sentences are those of its training data, and may be wrong.",
    ),
}
"""Tasks by an attribute that only their models have."""


def card_values(model: Any, run: RunConfig | None, metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """Values of `CARD` for a model; run that trained it and its metrics.json, if known."""
    arxiv, title = PAPERS[model.method]
    flags = run.flags if run else {}
    task = next((task for name, task in TASKS.items() if hasattr(model, name)), RETRIEVAL)
    return {
        "heading": f"{type(model).__name__}: {task.name}",
        "method": model.method,
        "title": title,
        "year": 2000 + int(arxiv[:2]),
        "arxiv": arxiv,
        "clip": model.clip.config,
        "words": flags.get("max_words", 32),
        "frames": flags.get("max_frames", 12),
        "call": task.call,
        "bounds": task.bounds,
        "data": _data(run),
        "metrics": _metrics(metrics),
    }


def _data(run: RunConfig | None) -> str:
    """Training data as Markdown."""
    if run is None:
        return "Not recorded: there is no config.json of the run that trained this model."
    names = ("datatype", "recipe", "base_encoder", "epochs", "batch_size", "lr", "coef_lr", "seed")
    rows = [f"| {name} | {run.flags[name]} |" for name in names if name in run.flags]
    commit = f" at commit `{run.commit}`" if run.commit else ""
    return "\n".join(["| flag | value |", "| --- | --- |", *rows, "", f"Trained{commit}; config.json has all flags."])


def _metrics(metrics: Mapping[str, Any] | None) -> str:
    """The figures of an evaluation, as Markdown."""
    if metrics is None:
        return "Not recorded: there is no metrics.json of these weights."
    if "total" in metrics:
        rows = {f"{scope} questions": figures for scope, figures in metrics["total"].items()}
    elif "t2v" in metrics:
        rows = {"text to video": metrics["t2v"], "video to text": metrics["v2t"]}
    else:
        rows = {"captions": metrics["captions"]}
    columns = [name for name in next(iter(rows.values())) if name not in ("questions", "R50")]
    lines = [[label, *(f"{values[name]:g}" for name in columns)] for label, values in rows.items()]
    table = "\n".join("| " + " | ".join(line) + " |" for line in (["", *columns], ["---"] * (len(columns) + 1), *lines))
    counts = {name: count for name, count in metrics["run"].items() if isinstance(count, int)}
    return f"{table}\n\nThe data: {used(counts)}."
