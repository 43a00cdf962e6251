"""Example of ``--data MODULE:CALLABLE``: a reader of images in folders, one folder a class, as ImageNet has them.

    ROOT/train/CLASS/*.jpg  ROOT/val/CLASS/*.jpg

Copy it, change what you need, and run, for example,

    IMAGE_FOLDER=~/imagenet python -m landscape.spectrum ckpt.pt --data imagefolder_example:load
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 16  # 224 for ImageNet
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SUFFIXES = {".jpg", ".jpeg", ".png"}


def load(split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Return images ``(N, 3, SIDE, SIDE)`` and labels ``(N,)``, classes and files in alphabetical order."""
    folder = Path(os.environ["IMAGE_FOLDER"]).expanduser() / {"train": "train", "test": "val"}[split]
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    return np.stack([read_image(path) for path, _ in files]), np.array([label for _, label in files])


def read_image(path: Path) -> np.ndarray:
    """Return the central square of an image, resized and standardised, ``(3, SIDE, SIDE)`` float32."""
    with Image.open(path) as image:
        edge = min(image.size)
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        square = image.convert("RGB").crop((left, top, left + edge, top + edge)).resize((SIDE, SIDE))
    return ((np.asarray(square) / 255 - MEAN) / DEVIATION).transpose(2, 0, 1).astype(np.float32)
