"""A synthetic world of moving shapes: scenes, what they look like, and what is said and asked about them."""
