"""A synthetic world of moving shapes: scenes, their pictures, captions and questions."""
