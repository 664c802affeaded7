"""The released spelling of parameter names, a table for each method.

Released checkpoints are flat. They are the file format in which models are saved and loaded, independent of the nesting
of modules here.
"""

import re
from collections.abc import Callable, Iterable, Mapping

# Names of `models.encoder.TokenEncoder`, which all methods share; CLIP's keep theirs, under "clip.".
ENCODER = (
    (r"temporal\.transformer\.", "transformerClip."),
    (r"temporal\.positions\.", "frame_position_embeddings."),
    (r"temporal\.lstm\.", "lstm_visual."),
)


def spelling(names: Iterable[tuple[str, str]], suffixes: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """Make the function that translates our names to the released ones.

    `names` are pairs of a regular expression for the beginning of our name, and the released beginning, whose "{}"
    receive the groups, replaced by `suffixes`.
    """
    table = [(re.compile(pattern), released) for pattern, released in (*ENCODER, *names)]

    def released_name(name: str) -> str:
        for pattern, released in table:
            if match := pattern.match(name):
                groups = ((suffixes or {}).get(group, group) for group in match.groups())
                return released.format(*groups) + name[match.end() :]
        return name

    return released_name
