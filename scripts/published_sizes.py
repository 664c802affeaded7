"""Numbers of videos and captions in the published splits."""

PUBLISHED_SIZES: dict[str, dict[str, tuple[int | None, int | None]]] = {
    "msrvtt 9k": {"train": (9_000, 180_000), "test": (1_000, 1_000)},
    "msrvtt 7k": {"train": (7_010, 140_200), "test": (1_000, 1_000)},
    "msrvtt full": {"train": (6_513, 130_260), "val": (497, 9_940), "test": (2_990, 59_800)},
    "msrvtt 1kB": {"train": (6_656, 133_120), "test": (1_000, 1_000)},
    "msvd": {"train": (1_200, 48_774), "val": (100, 4_290), "test": (670, 27_763)},
    "activity": {"train": (10_009, 10_009), "test": (4_917, 4_917)},
    "didemo": {"train": (8_392, 8_392), "val": (1_065, 1_065), "test": (1_004, 1_004)},
    "lsmdc": {"train": (None, 101_079), "val": (None, 7_408), "test": (1_000, 1_000)},
    "vatex": {"train": (25_991, None), "val": (1_500, None), "test": (1_500, None)},
}
"""Data set (and its division if it has several) -> split -> videos and captions, None where these repeat."""
