"""The released spelling of HBI, for retrieval and question answering."""

from models.released import spelling

# The suffix of a level is "", "0" or "1"; that of the stage leading into it "0" or "1".
LEVEL_SUFFIX = {"0": "", "1": "0", "2": "1"}
LEVEL_NAMES = {
    "text_weight": "text_weight_fc{}",
    "video_weight": "video_weight_fc{}",
    "student": "banzhafmodel{}",
    **{
        f"{side}_merge.{ours}": f"{side[0]}_{released}"
        for side in ("text", "video")
        for ours, released in {
            "merge.conv": "ctm{}.conv.conv",
            "merge": "ctm{}",
            "attention.norm": "block{}.norm1",
            "attention.query": "block{}.attn.q",
            "attention.key_value": "block{}.attn.kv",
            "attention.project": "block{}.attn.proj",
        }.items()
    },
}
HEAD_NAMES = {
    "text_weight": "t_weight{}",
    "video_weight": "v_weight{}",
    "text_project": "t_proj{}",
    "video_project": "v_proj{}",
    "classifier": "classifier{}",
}

released_name = spelling(
    [
        (r"teacher\.", "banzhafteacher."),
        *((rf"levels\.(\d)\.{ours}\.", f"{released}.") for ours, released in LEVEL_NAMES.items()),
        *((rf"answer_heads\.(\d)\.{ours}\.", f"{released}.") for ours, released in HEAD_NAMES.items()),
    ],
    LEVEL_SUFFIX,
)
