"""Video files: which frames to take, decoding them by their time stamps, CLIP's preprocessing."""
