"""The type checker of the import hook in tests/conftest.py."""

import random

from beartype import BeartypeConf, beartype
from beartype._check.code import codemain

# It checks one random item of a list, and would take its draws from those that tests compare.
codemain.getrandbits = random.Random(0).getrandbits

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float
