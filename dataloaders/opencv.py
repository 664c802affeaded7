"""OpenCV, held to one thread: each loading process would start as many threads as there are cores."""

import cv2

__all__ = ["cv2"]

cv2.setNumThreads(1)
