"""Presets: defaults of flags for data other than the published sets."""

PRESETS = {
    "small": {
        "recipe": "corrected",
        "teacher": "exact",
        "epochs": 10,
        "batch_size": 16,
        "batch_size_val": 32,
        "lr": 1e-4,
        "coef_lr": 1e-2,
        "n_display": 10,
        "augment": "none",
        "workers": 2,
    }
}
"""Name -> flag -> value. "small" is for some hundred pairs: no estimator to train first, CLIP's rate 1e-6."""
