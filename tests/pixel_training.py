"""What the tests of the systems that classify pixels share: a short training on two drawn scenes."""

import numpy as np
import pytest

import minimask
from minimask.datasets.toy import ToyScenes
from minimask.mask_rcnn import sampling_generator


def check_training(model, folder, steps, learning_rate, ap50):
    """Train until the model finds objects and classifies pixels, and read it back from its checkpoint.

    ap50: mask AP50 must be higher. Returns the losses by name before and after, and the batch of both scenes.
    """
    scenes = ToyScenes("train", size=64, count=2)
    batch = model.transform([scenes[i] for i in range(2)])

    def losses():
        return {name: loss.item() for name, loss in model.losses(batch, sampling_generator(0, 0)).items()}

    before = losses()
    assert before["loss_pixels"] == pytest.approx(np.log(4), rel=1e-6)  # four classes, all equally likely
    settings = dict(steps=steps, batch_size=2, learning_rate=learning_rate, quiet=True)
    run = minimask.train(model, scenes, output=folder / "run", **settings)

    again = minimask.load(run.folder)
    np.testing.assert_array_equal(again.segment(batch), model.segment(batch))
    np.testing.assert_array_equal(again.detect(batch).masks, model.detect(batch).masks)
    numbers = minimask.evaluate(again, scenes, quiet=True)
    assert numbers["pixels"]["mean IoU"] > 0.6  # about 0.2 if everything is background
    assert numbers["segm"]["AP50"] > ap50
    return before, losses(), batch
