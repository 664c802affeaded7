"""Search among one's own videos: an index of their segments, and queries to it."""

import os

# Read when lancedb is imported, which is after this; what it warns of is how tables are made.
os.environ.setdefault("LANCEDB_LOG", "error")
