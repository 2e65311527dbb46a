"""Make found.jpg, the picture in the README: what the toy weights find in three drawn scenes they have not seen."""

from pathlib import Path

import numpy as np
from PIL import Image

import minimask

SCENES = (0, 8, 14)
SIDE = 560  # pixels of each scene in the picture

model = minimask.load("toy")
scenes = minimask.datasets.toy("test", size=1024)
pictures = []
for i in SCENES:
    found = model.predict(scenes[i].image)
    picture = minimask.draw.draw_prediction(
        found.image, found, found.class_names, skeleton=found.skeleton, caption=False
    )
    pictures.append(np.array(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
page = minimask.draw.grid(pictures, columns=len(pictures))
minimask.draw.save_picture(Path(__file__).with_name("found.jpg"), page)
