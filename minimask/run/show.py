"""Showing a picture wherever the program runs: below a notebook's cell, in a window, or as a file."""

import os
import sys
import tempfile
from pathlib import Path

from minimask.draw import picture_bytes, save_picture
from minimask.run.messages import say


def show_picture(picture):
    """Show (H, W, 3) uint8: in a notebook below the cell, else in the system's viewer, without a screen in a file."""
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
