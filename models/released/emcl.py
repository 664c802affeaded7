"""The released spelling of EMCL, for retrieval and question answering."""

from models.released import spelling

released_name = spelling(
    [
        (r"temporal\.project\.", "mean_proj."),
        (r"head\.(text|video)_weight\.", "{}_w."),
        (r"head\.(text|video)_project\.", "{}_proj."),
        (r"head\.", ""),
    ],
    {"text": "t", "video": "v"},
)
