"""A web page over an index of videos."""
