"""The released spelling of DiffusionRet."""

from models.released import spelling

DENOISER_NAMES = {
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "project": "proj",
    r"positions\b": "sequence_pos_encoder.pe",
    r"time\.positions\b": "embed_timestep.sequence_pos_encoder.pe",
    r"time\.layers": "embed_timestep.time_embed",
    "": "",
}

released_name = spelling(
    [
        (r"interaction\.(text|video)_weight\.", "{}_weight_fc."),
        *(
            (rf"denoisers\.(t2v|v2t)\.{ours}", f"diffusion_model{{}}.{released}")
            for ours, released in DENOISER_NAMES.items()
        ),
    ],
    {"t2v": "", "v2t": "_v"},
)
