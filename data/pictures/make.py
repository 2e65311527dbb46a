"""Make found.jpg, the picture in the README: what the toy weights find in three drawn scenes they have not seen."""

from pathlib import Path

import numpy as np
from PIL import Image

import minimask.course
from minimask import draw
from minimask.datasets.toy import ToyScenes

SCENES = (0, 8, 14)
SIDE = 560  # pixels of each scene in the picture

model, class_names = minimask.course.toy_model()
scenes = ToyScenes("test", size=1024)
pictures = []
for i in SCENES:
    image = scenes[i].image
    found = model.predict([image])[0]
    picture = draw.draw_prediction(image, found, class_names, skeleton=scenes.skeleton, caption=False)
    pictures.append(np.array(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
draw.save_picture(Path(__file__).with_name("found.jpg"), draw.grid(pictures, columns=len(pictures)))
