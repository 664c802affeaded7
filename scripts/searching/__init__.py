"""Search in a user's videos: an index of their segments, and queries to it."""

import os

# Read when lancedb is imported, which is after this; its warnings concern how tables are made.
os.environ.setdefault("LANCEDB_LOG", "error")
