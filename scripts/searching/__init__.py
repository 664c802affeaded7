"""Search among one's own videos: an index of their segments, and queries to it."""
