"""best.npz: the model of a run that scored highest in validation, kept beside the last two checkpoints.

It holds the weights and what they mean, without the optimizer, and serves as weights wherever a checkpoint does:
`python -m minimask evaluate --weights runs/mine/best.npz`. The folder alone, `--weights runs/mine`, stands for the
newest checkpoint, and `--resume` goes on from that one.
"""

from pathlib import Path

from minimask import checkpoint
from minimask.errors import InputError

BEST = "best.npz"
SCORES = ("mask_AP", "box_AP")  # the first of these that validation reports decides


class Best:
    """Keeps FOLDER/best.npz. A resumed run compares with the existing file.

    step: the step of the model that is kept, None if there is none.
    """

    def __init__(self, folder):
        self.path = Path(folder) / BEST
        self.step, self.name, self.score = None, None, -1.0
        if self.path.exists():
            self._remember()

    def _remember(self):
        try:
            _, settings = checkpoint.read(self.path)
            self.step, (self.name, self.score) = settings["step"], settings["best"]
        except (InputError, KeyError, TypeError, ValueError):  # a damaged file, or not ours: the next best replaces it
            pass

    def offer(self, step, scores, model, settings):
        """Keep `model` if it scores higher than the best so far.

        step: how many steps it was trained.
        scores: dict of validation's numbers, e.g. {"loss": 0.8, "box_AP": 0.41, "mask_AP": 0.38}.
        settings: dict for JSON that the checkpoints of the run hold.

        An AP of -1 means that the validation data has no such objects; it never counts as best.
        """
        name = next((name for name in SCORES if name in scores), None)
        if name is None or not scores[name] > self.score:
            return
        score = float(scores[name])
        checkpoint.write_model(self.path, model, {**settings, "step": step, "best": [name, score]})
        self.step, self.name, self.score = step, name, score

    def score_text(self):
        """The best score for people, e.g. "mask AP 0.381"."""
        return f"{self.name.replace('_', ' ')} {self.score:.3f}"
