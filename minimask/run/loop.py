"""What happens around the steps of a run: its log, progress bar, validation, checkpoints, Ctrl-C, and resuming it.

The loop itself and the step are in train.py. The folder of a run holds

    checkpoint-00000400.npz, checkpoint-00000500.npz     the last two checkpoints, see checkpoint.py
    best.npz                                             the model that scored best in validation, see best.py
    log.jsonl                                            see log.py
    losses.png, metrics.csv                              what the log says, see metrics.py
    tensorboard/                                         the same for TensorBoard, on request, see tensorboard.py
"""

import contextlib
import dataclasses
import time
from pathlib import Path

import numpy as np

from minimask import checkpoint
from minimask.errors import InputError
from minimask.machine import distributed
from minimask.machine.card import enough_memory
from minimask.run.best import BEST, Best
from minimask.run.files import remove_leftovers
from minimask.run.finite import NotFiniteError, advice
from minimask.run.folder import check_complete, checkpoints, load_newest, refuse_earlier_run, set_aside
from minimask.run.lock import FolderLock
from minimask.run.log import LOG, Log, NoLog
from minimask.run.messages import say
from minimask.run.metrics import PICTURE, TABLE, Metrics
from minimask.run.progress import Bar, Clock
from minimask.run.settings import may_change
from minimask.run.signals import StopRequest
from minimask.run.tensorboard import Events, event_files

SECONDS_BETWEEN_CHECKPOINTS = 60  # if the settings do not say after how many steps


@contextlib.contextmanager
def training_run(
    model, optimizer, settings, steps, folder, info=None, validate=None, resume=False, overwrite=False, progress=True
):
    """Inside, a Run is open: its folder is locked, its log is open, Ctrl-C waits for the end of a step.

    steps: StepsOnCpu or StepsOnGpu.
    For the other arguments, and for what is raised, see `train.fit`.
    """
    run = Run(model, optimizer, settings, steps, folder, info, validate, resume, overwrite, progress)
    memory = enough_memory("use fewer images per step (--batch-size) or smaller ones (--max-size)")
    no_warnings = np.errstate(over="ignore", invalid="ignore")  # a loss that is not finite has its own message
    with contextlib.closing(run.lock), run.log, run.bar, run.stop, memory, no_warnings, steps:
        try:
            run.begin()
            yield run
            run.finish()
        except NotFiniteError as error:
            hint = advice(settings.learning_rate)
            raise NotFiniteError(f"{error}; {hint}; the last good checkpoint is {run.checkpoint}") from None
        finally:
            run.close()
    run.say_how_it_ended()


class Run:
    """A training run; `training_run` opens and closes it.

    step: how many steps have been taken.
    checkpoint: path of the last checkpoint (None in all workers but the first).
    """

    def __init__(self, model, optimizer, settings, steps, folder, info, validate, resume, overwrite, progress):
        self.model, self.optimizer, self.settings, self.steps = model, optimizer, settings, steps
        self.folder, self.validate = Path(folder), validate
        self.info = {"class_names": [], "category_ids": [], **(info or {}), "training": dataclasses.asdict(settings)}
        self.first = distributed.is_first()
        self.talks = progress and self.first

        self.lock = contextlib.ExitStack()
        try:
            state = self._prepare_folder(resume, overwrite) if self.first else None
            self.step, seconds = distributed.from_first(state)
            distributed.same_state(model, optimizer)
            self.log = self._open_log() if self.first else NoLog()
        except BaseException:
            self.lock.close()
            raise

        self.resumed = self.step > 0
        self.clock = Clock(settings, seconds)
        if self.resumed:
            state = "the run is finished" if self._over() else f"going on after step {self.step}"
            if self.talks:  # before the bar is shown
                say(f"{checkpoints(self.folder)[-1]}: {state}")
        self.bar = Bar(settings, self.clock, self.step, self.talks)
        self.stop = StopRequest()
        self.best = Best(self.folder) if self.first else None
        self.metrics = Metrics(self.folder)
        self.checkpoint = None
        self.data = None  # the iterator over batches

    # ------------------------------------------------------------------------------------------ called by the loop

    def begin(self):
        """Save the first checkpoint, unless the run goes on from one."""
        if self.resumed:
            self._saved(checkpoints(self.folder)[-1] if self.first else None)
        else:
            self._save()
            if self.info.get("left_out"):
                self.log.write(step=self.step, left_out=self.info["left_out"])

    def batches(self, loader):
        """Yields (step, batch) until the run is over or somebody asks it to stop; steps count from 0."""
        self.dataset, self.images = loader.dataset, len(loader.dataset)
        self.data = self.steps.batches(distributed.Together(loader.iterate(self.step)))
        while not self._over() and not distributed.any_worker(self.stop.requested):
            try:
                batch = next(self.data)
            except Exception:  # an image that cannot be read, here or by another worker
                self._keep()
                distributed.any_worker(False)  # all wait until it is saved, because the error ends them
                raise
            yield self.step, batch

    def progress(self):
        """The fraction of the run, from 0 to 1, that is behind us; the same in all workers."""
        return distributed.from_first(self.clock.progress(self.step))

    def report(self, reports):
        """Close a step: log the reports (list of StepReport) that are ready, then validate and save if it is time."""
        self._log(reports)
        self.step += 1
        if self.validate and self.settings.validate_every and self.step % self.settings.validate_every == 0:
            self._log(self.steps.rest())
            self._validate()
        if distributed.from_first(self._checkpoint_is_due()):
            self._log(self.steps.rest())
            self._save()

    def finish(self):
        """After the last step: log what is not logged yet, finish models that have a second step, and save."""
        self._log(self.steps.rest())
        second_step = hasattr(self.model, "finish_training") and self._over()
        if second_step and self.first:
            with distributed.alone():
                self.model.finish_training(self.dataset)
        # A run of so many minutes saves in any case, to record how long it took.
        if self.step != self.saved_step or self.settings.minutes or second_step:
            self._save()
        if self.first:
            self.metrics.refresh(last=True)

    def close(self):
        """Stop the threads that prepare batches."""
        if self.data is not None:
            self.data.close()

    def say_how_it_ended(self):
        """Say which model was best and, after Ctrl-C, how to go on. Raises distributed.Stopped after Ctrl-C."""
        if self.talks and self.best.step is not None:
            say(f"best in validation: step {self.best.step}, {self.best.score_text()}, kept as {self.folder / BEST}")
        if distributed.any_worker(self.stop.requested) and not self._over():
            if self.first:
                say(f"stopped after step {self.step} and saved {self.checkpoint}")
                say(self._how_to_go_on())
            raise distributed.Stopped

    # -------------------------------------------------------------------------------------------------- its parts

    def _keep(self):
        """Something went wrong between two steps: save what was learned so far, and say how to go on."""
        self.finish()
        if self.talks:
            say(f"saved {self.checkpoint}; {self._how_to_go_on()}")

    def _how_to_go_on(self):
        return f"go on with: python -m minimask train --output {self.folder} --resume"

    def _open_log(self):
        wanted = (self.info.get("options") or {}).get("tensorboard")
        return Log(self.folder / LOG, self.step, Events(self.folder, self.step) if wanted else None)

    def _over(self):
        return distributed.any_worker(self.clock.done(self.step))

    def _log(self, reports):
        for report in reports:
            images = report.images * distributed.size()
            self.bar.update(report.step + 1, report.losses, images)
            self.log.write(
                step=report.step + 1,
                epoch=round((report.step + 1) * images / self.images, 4),
                time=self.clock.seconds(),
                loss=sum(report.losses.values()),
                **report.losses,
                lr=report.learning_rate,
                gradient_norm=report.gradient_norm,
                images_per_second=self.bar.images_per_second,
            )
        if self.bar.unread:
            self.stop.requested = True

    def _validate(self):
        """The first worker validates while the others wait."""
        if not self.first:
            return
        try:
            with distributed.alone():
                scores = self.validate(self.model)
        except Exception:  # an image of the validation data that cannot be read
            self._keep()
            raise
        self.log.write(step=self.step, **{f"validation_{name}": value for name, value in scores.items()})
        self.best.offer(self.step, scores, self.model, self._settings())
        self.model.train()

    def _checkpoint_is_due(self):
        """Whether to save now. The results of the run do not depend on when it saves."""
        if self.settings.save_every:
            return self.step % self.settings.save_every == 0
        return time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS

    def _save(self):
        if self.first:
            self.log.flush()
            self.checkpoint = checkpoint.save(self.folder, self.step, self.model, self.optimizer, self._settings())
            self.metrics.refresh()
        self._saved(self.checkpoint)

    def _settings(self):
        """What checkpoints hold besides the arrays."""
        return {**self.info, "seconds": round(self.clock.seconds(), 3)}

    def _saved(self, path):
        self.checkpoint, self.saved_step, self.saved_at = path, self.step, time.monotonic()

    def _prepare_folder(self, resume, overwrite):
        """Make the folder ready and load the newest checkpoint on `resume`.

        Returns (step, seconds): how many steps were taken before, and how long they took.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot make this folder ({error.strerror or error})") from error
        self.lock.enter_context(contextlib.closing(FolderLock(self.folder)))
        earlier = checkpoints(self.folder)
        if not (resume or overwrite):
            refuse_earlier_run(self.folder)
        if not (earlier or overwrite) and (self.folder / BEST).exists():
            raise InputError(
                f"{self.folder}: holds {BEST} of an earlier run, but no checkpoint to resume; delete it (--overwrite) "
                "or choose another folder (--output)"
            )
        state = 0, 0.0
        if earlier and resume:
            state = self._load_newest()
        elif overwrite:
            named = [self.folder / name for name in (LOG, BEST, PICTURE, TABLE)]
            for path in [*earlier, *named, *event_files(self.folder)]:
                path.unlink(missing_ok=True)

        remove_leftovers(self.folder)
        return state

    def _load_newest(self):
        path, arrays, saved, damaged = load_newest(self.folder)
        check_complete(path, saved)
        self._check_same_run(path, saved)
        for newer, reason in damaged.items():
            say(f"{reason}; set aside as {set_aside(newer).name}; resuming from {path}")
        checkpoint.copy_weights(self.model, path, arrays, saved)
        try:
            self.optimizer.load_state_dict(checkpoint.part(arrays, "optimizer"))
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
        return saved["step"], saved["seconds"]

    def _check_same_run(self, path, saved):
        """Raises InputError if the settings or the data are not those that the run was started with."""
        before, now = saved.get("images"), self.info.get("images")
        if before is not None and now is not None and before != now:
            raise InputError(
                f"{path}: this run was started on {before} images, but the data set has {now} now; a run goes on with "
                f"the same data only (to train on the new data, start another run from its weights: --weights "
                f"{self.folder} --output FOLDER)"
            )
        for name, ours in dataclasses.asdict(self.settings).items():
            theirs = saved["training"].get(name)
            theirs = tuple(theirs) if isinstance(theirs, list) else theirs
            if theirs != ours and name not in may_change(type(self.settings)):
                raise InputError(f"{path}: this run was started with {name} = {theirs}; it cannot resume with {ours}")
        if saved["class_names"] != list(self.info["class_names"]):
            raise InputError(
                f"{path}: this run was started with the classes {', '.join(saved['class_names'])}, "
                f"but the data set has {', '.join(self.info['class_names'])}"
            )
