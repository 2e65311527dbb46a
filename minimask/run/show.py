"""Showing results: a picture wherever the program runs, and the words of short representations."""

import os
import sys
import tempfile
from pathlib import Path

from minimask.run.messages import say


class Showable:
    """The part of a Prediction that shows it. The fields are in structures.py."""

    @property
    def names(self):
        """The class of each object, as a list of D texts."""
        known = self.class_names
        return [str(known[i - 1]) if 0 < i <= len(known) else f"class {i}" for i in map(int, self.labels)]

    def picture(self, score_threshold=0.5):
        """The image with what was found in it, (H', W', 3) uint8. Objects with a lower score are left out."""
        from minimask.draw import draw_prediction

        if self.image is None:
            raise ValueError("Prediction: has no image to draw on (model.predict keeps it); see draw.draw_prediction")
        return draw_prediction(self.image, self, self.class_names, score_threshold, skeleton=self.skeleton)

    def save(self, path, score_threshold=0.5):
        """Write the picture to a file; the ending of `path` says in which format."""
        from minimask.draw import save_picture

        save_picture(path, self.picture(score_threshold))

    def show(self, score_threshold=0.5):
        """Show the picture: in a notebook below the cell, otherwise in a window or, without a screen, as a file."""
        show_picture(self.picture(score_threshold))

    def _repr_png_(self):
        from minimask.draw import picture_bytes

        return None if self.image is None else picture_bytes(self.picture())


def show_picture(picture):
    """Show (H, W, 3) uint8: below a notebook's cell, in the system's viewer or, without a screen, as a file."""
    from minimask.draw import picture_bytes, save_picture

    if "ipykernel" in sys.modules:
        from IPython.display import Image, display

        display(Image(data=picture_bytes(picture)))
        return
    path = Path(tempfile.mkdtemp(prefix="minimask-")) / "picture.png"
    save_picture(path, picture)
    if _has_screen():
        from PIL import Image

        Image.open(path).show()
    else:
        say(f"there is no screen to show it on; the picture is in {path}")


def _has_screen():
    on_linux = sys.platform.startswith("linux")
    return not on_linux or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def size_text(shape):
    """Height and width: "480 x 640"."""
    return f"{shape[0]} x {shape[1]}"


def bytes_text(count):
    """A number of bytes: "2.35 GB", "170.2 MB", "31 kB"."""
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def count_text(number, word):
    """A number and its noun: "1 image", "2 images"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def extras(masks, keypoints):
    """["masks", "keypoints"] without those that are None."""
    return ["masks"] * (masks is not None) + ["keypoints"] * (keypoints is not None)


def module_tree(module):
    """A line per module: its name and class, the shapes of its own arrays, the number of parameters in it and below."""
    rows = _tree_rows(module, "", indent="")
    names, shapes = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = [f"{name:<{names}}  {shape:<{shapes}}  {count:>11,}" for name, shape, count in rows]
    return "\n".join([lines[0] + " parameters", *lines[1:]])


def _tree_rows(module, name, indent):
    buffers = {key: getattr(module, key) for key in module.buffer_names}
    parameters = {key: value for key, value in vars(module).items() if hasattr(value, "requires_grad")}
    shapes = ", ".join(f"{key} {value.shape}" for key, value in {**parameters, **buffers}.items())
    count = sum(parameter.size for _, parameter in module.named_parameters())

    rows = [(f"{indent}{name + ': ' if name else ''}{type(module).__name__}", shapes, count)]
    for child_name, child in module.children():
        rows += _tree_rows(child, child_name, indent + "  ")
    return rows
