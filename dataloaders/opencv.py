"""OpenCV with one thread: by default each loading process would start a thread for each core."""

import cv2

__all__ = ["cv2"]

cv2.setNumThreads(1)
