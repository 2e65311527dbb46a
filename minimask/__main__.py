"""The command line: python -m minimask COMMAND ...

    demo        train, evaluate and draw on drawn scenes, to see it all work
    train       train on drawn scenes, or on your own photos with a COCO file
    evaluate    average precision of a trained model
    predict     find objects in photos
    download    fetch published weights
    convert     turn published weights into a checkpoint, or a checkpoint into torchvision's layout
    split       divide a COCO file into one for training and one for validation
    benchmark   time and memory on this machine
    compile     compile the kernels now, not at the first use
    check       check functions of your own that solve the course's exercises
    notebooks, exercises, slides, book, coverage
                make the course's notebooks from their sources, and what is made of them

Each command imports what it needs when it runs, so that the first training step comes soon.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

from minimask import __version__
from minimask.errors import InputError


def main(argv=None):
    """Run one command; returns the exit status: 0, 2 after bad input (told in one message), 130 after Ctrl-C."""
    args = make_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (InputError, OSError, MemoryError, KeyboardInterrupt) as error:
        return _tell(error)


def _tell(error):
    """Print what went wrong in one message for users; the exit status. An error that is none of theirs is raised."""
    if isinstance(error, InputError):
        return _fail(str(error))
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}")
    if isinstance(error, MemoryError):
        return _fail(f"not enough memory ({error}); try smaller pictures (--max-size) or fewer at once (--batch-size)")
    if isinstance(error, KeyboardInterrupt):
        print("minimask: stopped", file=sys.stderr)
        return 130
    raise error


def _fail(message):
    print(f"minimask: error: {message}", file=sys.stderr)
    return 2


# ---------------------------------------------------------------------------------------------------------------- train

# What a run is made from. It is kept in the checkpoints under these names, and `--resume` needs none of it again.
# A preset of None is "toy" for drawn scenes and "small" for one's own photos; sizes of None are the preset's.
# architecture: the model's settings, found in the file that --weights names, so that --resume does not need that file.
OPTIONS = dict(
    preset=None, images=None, annotations=None, val_images=None, val_annotations=None, toy_size=128, toy_case=None,
    steps=None, epochs=None, minutes=None, batch_size=4, optimizer="adamw", learning_rate=1e-3, momentum=0.9,
    weight_decay=1e-4, schedule="cosine", warm_up=20, clip=5.0, seed=0, flip=True, turns=False,
    scale_jitter=None, weights=None, new_heads=False, architecture=None, keypoints=False,
    min_size=None, max_size=None, padded_size=None, set={}, workers=None, threads=None, device=None, cuda_graph=False,
    precision="highest", save_every=None, validate_every=None,
)  # fmt: skip

# What may differ when a run goes on: it changes where things are and what is looked at, not the steps.
MAY_CHANGE = ("images", "annotations", "val_images", "val_annotations", "workers", "threads", "device", "cuda_graph",
              "save_every", "validate_every", "weights")  # fmt: skip

DEFAULT_STEPS = 1000
SCENES = {"train": 2000, "val": 200, "test": 200}  # how many scenes are drawn


def command_train(args):
    """Train; see `python -m minimask train --help`."""
    from minimask.machine import distributed

    if args.distributed:
        with distributed.session(_tell):
            if distributed.size() == 1:
                _say("this is one worker alone; several are started by: mpiexec -n 4 python -m minimask train ...")
            return _train(args)
    if distributed.started_by_mpiexec() > 1:
        raise InputError("train: mpiexec started several processes, which share one run only with --distributed")
    return _train(args)


def _train(args):
    from minimask import checkpoint
    from minimask.machine import distributed

    given = {name: value for name, value in vars(args).items() if name in OPTIONS}
    saved = None
    if args.resume and distributed.is_first():
        if checkpoint.checkpoints(args.output):
            saved = checkpoint.newest_settings(args.output)
        else:
            _say(f"{args.output} holds no checkpoint yet; starting at step 0")
    saved = distributed.from_first(saved)
    if saved:
        options = _resumed_options(args.output, saved, given)
    else:
        options = {**OPTIONS, "preset": "small" if "annotations" in given else "toy", **given}
        _check_options(options)
        if args.resume is False and args.overwrite is False and distributed.is_first():
            _refuse_earlier_run(args.output)
        if options["weights"] and "preset" not in given:
            options["architecture"] = _architecture(options["weights"])
            options["preset"] = options["architecture"]["preset"]
    path = run_training(options, args.output, resume=bool(saved), overwrite=args.overwrite)
    if not distributed.is_first():
        return
    print(f"weights: {path}")
    print(f"log:     {Path(args.output) / 'log.jsonl'}")
    data = ""
    if options["images"]:
        images, annotations = options["val_images"] or options["images"], options["val_annotations"] or "FILE.json"
        data = f" --images {images} --annotations {annotations}"
    print(f"next:    python -m minimask evaluate --weights {args.output}{data}")


def _architecture(path):
    """The model's settings in a file of weights, but for the number of classes, which the data says."""
    from minimask import weights

    settings = weights.recognize(path)
    return {name: value for name, value in settings.items() if name != "num_classes"}


def _resumed_options(folder, saved, given):
    if "options" not in saved:
        raise InputError(f"{folder}: holds converted weights, not a run to go on with; give them as --weights")
    options = {**OPTIONS, **saved["options"]}
    for name, value in given.items():
        if name not in MAY_CHANGE and value != options[name]:
            raise InputError(
                f"{folder}: this run was started with {_flag(name)} {options[name]}, not {value}; "
                "leave that out to go on with it, or start another run (--output)"
            )
    return {**options, **given}


def _flag(name):
    return "--" + name.replace("_", "-")


def _check_options(options):
    """Numbers and combinations that make no sense, before anything is read or built."""
    ends = [name for name in ("steps", "epochs", "minutes") if options[name] is not None]
    if len(ends) > 1:
        raise InputError(f"train: give one of --steps, --epochs and --minutes, not {' and '.join(map(_flag, ends))}")
    if (options["images"] is None) != (options["annotations"] is None):
        raise InputError("train: --images DIR and --annotations FILE.json belong together; give both, or none (toy)")
    if options["val_annotations"] and not options["annotations"]:
        raise InputError("train: --val-annotations needs --images and --annotations (the toy data draws its own)")
    if options["new_heads"] and not options["weights"]:
        raise InputError("train: --new-heads needs --weights FILE, for it says what not to take from it")
    if options["validate_every"] and options["annotations"] and not options["val_annotations"]:
        raise InputError("train: --validate-every needs --val-annotations FILE.json (and --val-images, if elsewhere)")
    for name, least in (("batch_size", 1), ("workers", 0), ("toy_size", 32), ("min_size", 1), ("max_size", 1)):
        if options[name] is not None and options[name] < least:
            raise InputError(f"train: {_flag(name)} must be at least {least}, got {options[name]}")
    if options["cuda_graph"] and options["device"] in (None, "cpu"):
        raise InputError("train: --cuda-graph needs --device cuda")
    if options["padded_size"] is not None and min(options["padded_size"]) < 1:
        raise InputError(f"train: --padded-size must be at least 1 1, got {options['padded_size']}")
    if options["epochs"] is not None and not 0 < options["epochs"] < math.inf:
        raise InputError(f"train: --epochs must be more than 0, got {options['epochs']}")
    if options["scale_jitter"] is not None and not 0 < options["scale_jitter"][0] <= options["scale_jitter"][1]:
        raise InputError("train: --scale-jitter needs two numbers, 0 < LOW <= HIGH, e.g. 0.8 1.2")


def _refuse_earlier_run(folder):
    from minimask import checkpoint

    earlier = checkpoint.checkpoints(folder)
    if earlier:
        raise InputError(
            f"{folder}: holds a run already (its last checkpoint is {earlier[-1].name}); go on with it (--resume), "
            "delete it (--overwrite) or choose another folder (--output)"
        )


def run_training(options, folder, resume=False, overwrite=False, progress=True):
    """Build data, model and loader from `options` (see OPTIONS) and train into `folder`; the last checkpoint's path."""
    from minimask import device, mask_rcnn, weights
    from minimask.datasets.loader import InMemory, Loader
    from minimask.machine import distributed, warmup
    from minimask.presets import merge
    from minimask.train import fit

    where = device.resolve(distributed.own_device(options["device"]))  # before anything slow is done
    _set_threads(options["threads"])
    device.set_matmul_precision(options["precision"])
    dataset = open_dataset(options["images"], options["annotations"], "train", options)
    settings = _train_settings(options, len(dataset))
    sizes = {name: options[name] for name in ("min_size", "max_size") if options[name] is not None}
    keypoint_names = _keypoint_names(dataset, options)
    heads = {"keypoints": len(keypoint_names)}  # 0: the branch of weights that have one is left out
    architecture = options["architecture"] or {"preset": options["preset"]}
    architecture = merge(merge(architecture, {"transform": sizes, "heads": heads}), options["set"])
    model = mask_rcnn.build(num_classes=len(dataset.class_names) + 1, seed=options["seed"], **architecture)
    if options["weights"] and not resume:
        report = weights.load(model, options["weights"], options["new_heads"])
        _say_once(f"weights of {options['weights']}:\n{report}")
    model.to(where)
    model.transform.padded_size = options["padded_size"] and tuple(options["padded_size"])
    loader = Loader(
        InMemory(dataset), model.transform, options["batch_size"], options["seed"], workers=_workers(options),
        flip=options["flip"], turns=options["turns"], scale_jitter=options["scale_jitter"],
        share=(distributed.rank(), distributed.size()),
    )  # fmt: skip
    validate = _validation(options, list(dataset.class_names), keypoint_names) if settings.validate_every else None
    info = {"class_names": list(dataset.class_names), "category_ids": _category_ids(dataset), "options": options}
    if keypoint_names:
        info |= {"keypoint_names": keypoint_names, "skeleton": [list(pair) for pair in dataset.skeleton]}
    if where == "cpu":
        with distributed.first_alone():  # the others find its compiled kernels
            warmup.ensure(progress)
    graph = options["cuda_graph"]
    return fit(model, loader, settings, folder, info, validate, resume, overwrite, progress, graph)


def _workers(options):
    """Threads that prepare batches: two where the kernels leave cores free, none where they would take turns with them.

    Measured on two cores: a step with its data takes 155 ms with no worker, 175 with one.
    """
    if options["workers"] is not None:
        return options["workers"]
    return max(0, min(2, (os.cpu_count() or 1) - 2))


def _set_threads(count):
    from minimask.machine.threads import set_threads

    if count is not None:
        try:
            set_threads(count)
        except ValueError as error:
            raise InputError(str(error)) from error


def open_dataset(images, annotations, split, options, class_names=None):
    """The COCO data of a folder and a file, or the toy scenes of `split` where they are None.

    class_names: those of the model, if there is one already: labels then follow them.
    """
    if annotations:
        from minimask.datasets.coco import CocoDataset

        return CocoDataset(images, annotations, class_names=class_names)
    from minimask.datasets.toy import ToyScenes

    return ToyScenes(split=split, size=options["toy_size"], count=SCENES[split], case=options["toy_case"])


def _keypoint_names(dataset, options):
    """The names of the keypoints that are to be learned, [] if none are. InputError if the data has none."""
    names = list(dataset.keypoint_names or ())
    if options["keypoints"] and not names:
        raise InputError(
            f'train: --keypoints: no category in {options["annotations"]} has a list "keypoints" with their names'
        )
    return names if options["keypoints"] else []


def _category_ids(dataset):
    return [int(i) for i in dataset.category_ids]


def _train_settings(options, images):
    """TrainSettings from the options; epochs become steps."""
    from minimask.train import TrainSettings

    steps, epochs, minutes = options["steps"], options["epochs"], options["minutes"]
    if epochs is not None:
        steps = math.ceil(epochs * images / options["batch_size"])
    if steps is None and minutes is None:
        steps = DEFAULT_STEPS
    same = ("optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "warm_up", "clip", "seed",
            "save_every", "validate_every")  # fmt: skip
    return TrainSettings(steps=steps, minutes=minutes, **{name: options[name] for name in same})


def _validation(options, class_names, keypoint_names):
    """A function of the model: losses and average precision on the validation data, name -> number for the log."""
    from minimask.datasets.loader import Loader
    from minimask.evaluate import evaluate
    from minimask.train import validation_loss

    images = options["val_images"] or options["images"]
    dataset = open_dataset(images, options["val_annotations"], "val", options, class_names)
    if keypoint_names and list(dataset.keypoint_names or ()) != keypoint_names:
        raise InputError(f"{options['val_annotations']}: must have the keypoints {', '.join(keypoint_names)}")
    size = options["batch_size"]

    def validate(model):
        loader = Loader(dataset, model.transform, size, seed=0, workers=_workers(options), shuffle=False, flip=False)
        losses = validation_loss(model, loader, math.ceil(len(dataset) / size))
        scores = evaluate(model, dataset, progress=False)
        return {**losses, **_flat_scores(scores)}

    return validate


def _flat_scores(scores):
    names = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
    return {f"{names[kind]}_{name}": numbers[name] for kind, numbers in scores.items() for name in ("AP", "AP50")}


# ------------------------------------------------------------------------------------------------- evaluate and predict


def command_evaluate(args):
    """Average precision; see `python -m minimask evaluate --help`."""
    if (args.images is None) != (args.annotations is None):
        raise InputError("evaluate: --images DIR and --annotations FILE.json belong together; give both, or none (toy)")
    _set_threads(args.threads)
    path = Path(args.weights)
    opened = _open(path, args.device, args.precision)
    model, class_names = opened.model, opened.settings["class_names"]
    saved = opened.settings.get("options", {})
    dataset = open_dataset(args.images, args.annotations, "test", {**OPTIONS, **saved})
    if list(dataset.class_names) != class_names:
        _check_classes(path, class_names, dataset.class_names)
        dataset = open_dataset(args.images, args.annotations, "test", {**OPTIONS, **saved}, class_names)
    output = Path(args.output) if args.output else (path if path.is_dir() else path.parent) / "evaluation"
    evaluate_into(model, dataset, output, args.max_detections, args.batch_size)


def _open(path, where, precision):
    """The model in whatever --weights names, on a device; what is left out of its file is said."""
    from minimask import device, weights

    device.set_matmul_precision(precision)
    where = device.resolve(where)
    opened = weights.open_file(path)
    opened.model.to(where)
    if opened.report and opened.report.skipped:
        _say(f"weights of {path}:\n{opened.report}")
    return opened


def evaluate_into(model, dataset, output, max_detections=100, batch_size=8, progress=True):
    """Evaluate, print the table, write results and numbers to the folder `output`; the numbers."""
    from minimask.evaluate import evaluate
    from minimask.machine import warmup
    from minimask.run.files import json_bytes, write_files
    from minimask.run.report import format_table

    if getattr(model, "device", "cpu") == "cpu":
        warmup.ensure(progress)
    limits = (1, min(10, max_detections), max_detections)
    numbers = evaluate(
        model, dataset, batch_size=batch_size, progress=progress, max_detections=limits, results_dir=output
    )
    write_files({output / "average_precision.json": json_bytes(numbers)})
    print(f"{len(dataset)} images")
    print(format_table(numbers))
    print(f"results in COCO's format: {output}")
    return numbers


def _check_classes(path, ours, theirs):
    """The data may have fewer classes than the model, or in another order, but none that it does not know."""
    if not set(theirs) <= set(ours):
        raise InputError(
            f"{path}: holds weights for {len(ours)} classes of objects ({_some(ours)}), "
            f"the data has {len(theirs)} ({_some(theirs)})"
        )


def _some(names, count=4):
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def command_predict(args):
    """Find objects in photos; see `python -m minimask predict --help`."""
    from minimask.machine import warmup
    from minimask.run.predict import find_photos, predict_files

    if not 0 <= args.score <= 1:
        raise InputError(f"predict: --score must be between 0 and 1, got {args.score}")
    _set_threads(args.threads)
    find_photos(args.photos)  # a wrong path is told before anything slow is done
    opened = _open(args.weights, args.device, args.precision)
    saved = opened.settings
    if args.device in (None, "cpu"):
        warmup.ensure()
    written = predict_files(
        opened.model, saved["class_names"], args.photos, args.output, args.score, progress=True,
        category_ids=saved["category_ids"], keypoint_names=saved.get("keypoint_names", ()),
        skeleton=saved.get("skeleton", ()),
    )  # fmt: skip
    for photo, picture, record in written:
        count = len(json.loads(Path(record).read_text(encoding="utf-8"))["detections"])
        print(f"{photo}: {count} object{'s' * (count != 1)}, {picture}")


# ---------------------------------------------------------------------------------------------------- published weights


def command_download(args):
    """Fetch published weights; see `python -m minimask download --help`."""
    from minimask.weights import download

    return download.main(args)


LABELS = ("class_names", "category_ids", "keypoint_names", "skeleton")  # what labels and keypoints mean


def command_convert(args):
    """A file of weights in another form; see `python -m minimask convert --help`."""
    from minimask import checkpoint, weights

    output = Path(args.output)
    theirs = args.torchvision or output.suffix.lower() == ".safetensors"
    if not theirs and output.suffix.lower() != ".npz":
        output = output / "checkpoint-00000000.npz"
        if checkpoint.checkpoints(output.parent) and not args.overwrite:
            raise InputError(f"{output.parent}: holds checkpoints already; choose another --output, or --overwrite")
    if output.exists() and not args.overwrite:
        raise InputError(f"{output}: is there already; choose another --output, or --overwrite")
    if weights.is_graph(args.weights):
        weights.read(args.weights)  # says that it cannot be converted
    opened = weights.open_file(args.weights, **args.set)
    if theirs and args.small:
        raise InputError("convert: --small is for a checkpoint of minimask, not for torchvision's layout")
    if theirs:
        weights.save(output, opened.model)
    else:
        meanings = {name: value for name, value in opened.settings.items() if name in LABELS}
        checkpoint.write_model(output, opened.model, meanings, args.small)
    if opened.report:
        print(opened.report)
    print(f"weights: {output}")
    if not theirs:
        print(f"next:    python -m minimask predict PHOTO.jpg --weights {output}")


# ---------------------------------------------------------------------------------------------------------------- split


def command_split(args):
    """Divide a COCO file; see `python -m minimask split --help`."""
    from minimask.datasets.coco import split
    from minimask.datasets.coco_file import read_coco
    from minimask.run.files import json_bytes, write_files

    source = Path(args.annotations)
    output = Path(args.output) if args.output else source.parent
    parts = dict(zip(("train", "val"), split(read_coco(source)[0], args.every)))
    for name, part in parts.items():
        if not part["images"]:
            raise InputError(f"{source}: has too few images to divide them: none would be left for {name}")
    paths = {name: output / f"{source.stem}_{name}.json" for name in parts}
    if not args.overwrite:
        for path in paths.values():
            if path.exists():
                raise InputError(f"{path}: is there already; delete it, or write elsewhere (--output), or --overwrite")
    write_files({paths[name]: json_bytes(part) for name, part in parts.items()})
    for name, part in parts.items():
        print(f"{paths[name]}: {len(part['images'])} images, {len(part['annotations'])} objects")


# ----------------------------------------------------------------------------------------------------------------- demo

DEMO = dict(preset="toy", steps=2400, batch_size=4, learning_rate=1.5e-3)
DEMO_PICTURES = 4


def command_demo(args):
    """Train, evaluate, draw; see `python -m minimask demo --help`."""
    folder = Path(args.output)
    steps = DEMO["steps"] if args.steps is None else args.steps
    options = {**OPTIONS, **DEMO, "steps": steps, "threads": args.threads, "seed": args.seed}
    options |= {"device": args.device, "precision": args.precision}
    _check_options(options)
    print(f"1. training a Mask R-CNN from scratch on drawn scenes of cats, dogs and ducks: {steps} steps")
    run_training(options, folder, overwrite=True)

    from minimask import checkpoint

    model, class_names, _ = checkpoint.load_model(folder)
    model.to(args.device or "cpu")
    dataset = open_dataset(None, None, "test", options)
    print(f"2. average precision on {len(dataset)} scenes it has never seen")
    evaluate_into(model, dataset, folder / "evaluation")
    picture = folder / "predictions.png"
    draw_beside_truth(model, dataset, class_names, picture, DEMO_PICTURES)
    print(f"3. a picture: {picture} (left what is there, right what was found)")
    print(
        f"""
What to try next
  python -m minimask predict PHOTO.png --weights {folder}     any picture of your own
  python -m minimask train --steps 2000 --output runs/longer   train longer: what becomes better?
  python -m minimask train --set roi.pooling=roi_pool --output runs/roi_pool
                                                               RoIPool instead of RoIAlign: what becomes worse?
  python -m minimask train --images DIR --annotations FILE.json --minutes 10 --output runs/mine
                                                               your own photos, with a COCO file"""
    )


def draw_beside_truth(model, dataset, class_names, path, count):
    """Write one picture: the first `count` scenes, in each row the ground truth and beside it what the model found."""
    from minimask import draw

    pictures, titles = [], []
    for i in range(count):
        sample = dataset[i]
        prediction = model.predict([sample.image])[0]
        pictures += [
            draw.draw_sample(sample, class_names, keypoints=False, side=512),
            draw.draw_prediction(sample.image, prediction, class_names, side=512),
        ]
        titles += [f"{sample.name}: truth", "found"]
    draw.save_picture(path, draw.grid(pictures, columns=4 if count > 1 else 2, titles=titles))


# --------------------------------------------------------------------------------------------------- benchmark, compile


def command_benchmark(args):
    """Time and memory; see `python -m minimask benchmark --help`."""
    from minimask import benchmark

    return benchmark.main(args)


def command_compile(args):
    """Compile the kernels now."""
    from minimask.machine import warmup

    if args.serve:
        warmup.serve()
        return
    compiled = warmup.ensure()
    print(f"compiled: {', '.join(compiled)}" if compiled else "all kernels are compiled already")


# ------------------------------------------------------------------------------------------------------------ arguments


def make_parser():
    """The argument parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="minimask", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"minimask {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_download(commands)
    _add_convert(commands)
    _add_split(commands)
    _add_benchmark(commands)
    _add_compile(commands)
    _add_course(commands)
    return parser


def _command(commands, name, run, text, examples):
    """A subcommand with its examples at the end of its help."""
    parser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog="examples:\n" + examples.rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    return parser


PRECISION = dict(
    choices=("highest", "high", "medium"),
    help="with --device cuda, numbers are multiplied as float32, TF32 or BF16 (default highest: float32)",
)


def _add_machine(parser):
    parser.add_argument("--device", metavar="cpu|cuda", help="where to compute; cuda:1 is the second GPU (default cpu)")
    parser.add_argument("--precision", default="highest", **PRECISION)
    parser.add_argument("--threads", type=int, help="CPU threads (default: one a core)")


def _add_demo(commands):
    parser = _command(
        commands, "demo", command_demo, "train, evaluate and draw on drawn scenes",
        """  python -m minimask demo
  python -m minimask demo --steps 100      a quick look; it will not have learned much
""",
    )  # fmt: skip
    parser.add_argument("--output", default="runs/demo", help="folder for the results, replaced (default runs/demo)")
    parser.add_argument("--steps", type=int, help=f"training steps (default {DEMO['steps']})")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another run (default 0)")
    _add_machine(parser)


def _add_train(commands):
    parser = _command(
        commands, "train", command_train, "train on drawn scenes, or on your own photos with a COCO file",
        """  python -m minimask train --steps 500 --output runs/toy
  python -m minimask train --output runs/toy --resume       go on after Ctrl-C, a crash, a power cut
  python -m minimask train --device cuda --cuda-graph       on a GPU
  mpiexec -n 4 python -m minimask train --distributed --batch-size 16     4 processes, 4 images each
  python -m minimask train --images photos --annotations train.json --minutes 10 --output runs/mine
  python -m minimask train --images photos --annotations train.json --val-annotations val.json --validate-every 200
  python -m minimask train --images photos --annotations train.json --output runs/mine --learning-rate 0.0001 \\
      --weights data/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --new-heads
""",
    )  # fmt: skip
    # Options that are not given are not set, so that --resume can tell what was asked for.
    parser.argument_default = argparse.SUPPRESS
    add = parser.add_argument_group("the run").add_argument
    add("--output", default="runs/train", help="folder for checkpoints and log (default runs/train)")
    add("--resume", action="store_true", default=False, help="go on from the newest checkpoint in --output")
    add("--overwrite", action="store_true", default=False, help="delete an earlier run in --output")
    add("--distributed", action="store_true", default=False, help="several workers share each batch (see the examples)")
    add("--steps", type=int, help=f"how many steps (default {DEFAULT_STEPS}); such a run repeats bit for bit")
    add("--epochs", type=float, help="the same, as passes over the data")
    add("--minutes", type=float, help="how long to train; the schedule follows the clock")
    add("--seed", type=int, help="of weights, shuffling and sampling (default 0)")
    add("--workers", type=int, help="threads that prepare batches in the background (default 2; 0 on two cores)")
    add("--threads", type=int, help="CPU threads that compute (default: one a core)")
    add("--device", metavar="cpu|cuda", help="where to compute; cuda:1 is the second GPU (default cpu)")
    add("--precision", **PRECISION)
    add("--cuda-graph", action="store_true", help="with --device cuda: launch each step at once (see --padded-size)")
    add("--save-every", type=int, metavar="STEPS", help="a checkpoint every so many steps (default: every minute)")
    add("--validate-every", type=int, metavar="STEPS", help="validation loss and AP, into the log (default: never)")
    add = parser.add_argument_group("data (drawn scenes if no folder is given)").add_argument
    add("--images", metavar="DIR", help="folder of the photos")
    add("--annotations", metavar="FILE.json", help="their objects, in COCO's format")
    add("--val-images", metavar="DIR", help="folder of the photos for validation (default: --images)")
    add("--val-annotations", metavar="FILE.json", help="their objects")
    add("--toy-size", type=int, help="side of the drawn scenes in pixels (default 128)")
    add("--toy-case", help="one of the talk's cases in place of ordinary scenes: crowded, disconnected or small")
    add("--batch-size", type=int, help="images in a step (default 4)")
    add("--no-flip", dest="flip", action="store_false", help="do not mirror half of the images")
    add("--turns", action="store_true", help="turn images by quarters too (for those that have no top)")
    add("--scale-jitter", type=float, nargs=2, metavar=("LOW", "HIGH"), help="random factor of the image size")
    add = parser.add_argument_group("model").add_argument
    add("--preset", help="toy, small, resnet50_fpn, ... (default: as --weights; or toy for scenes, small for photos)")
    add("--weights", metavar="FILE", help="checkpoint, run or published weights to start from (default: random)")
    add("--new-heads", action="store_true", help="begin anew what depends on the classes; the rest is from --weights")
    add("--keypoints", action="store_true", help="learn the objects' keypoints too")
    add("--min-size", type=int, help="short side of the resized image (default: the preset's)")
    add("--max-size", type=int, help="limit of its long side (default: the preset's)")
    add("--padded-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of every batch, for --cuda-graph, which "
        "wants batches of one size (default: as large as the batch's largest image)")
    add("--set", type=_setting, action=_Collect, metavar="GROUP.NAME=VALUE", help="a setting of the model (presets.py)")
    add = parser.add_argument_group("optimizer").add_argument
    add("--optimizer", choices=("adamw", "sgd"), help="(default adamw)")
    add("--learning-rate", type=float, help="(default 0.001)")
    add("--momentum", type=float, help="of sgd (default 0.9)")
    add("--weight-decay", type=float, help="(default 0.0001)")
    add("--schedule", choices=("step", "cosine", "constant"), help="of the learning rate (default cosine)")
    add("--warm-up", type=int, metavar="STEPS", help="steps of growing learning rate at the start (default 20)")
    add("--clip", type=float, help="greatest length of the gradient (default 5)")


def _setting(text):
    """GROUP.NAME=VALUE as {group: {name: value}}, or GROUP=VALUE; the value as json if it is, else as text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"must be GROUP.NAME=VALUE, such as rpn.samples=64, got {text!r}")
    try:
        value = json.loads(value)
    except ValueError:
        pass
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


class _Collect(argparse.Action):
    """Collect settings in one dict of groups."""

    def __call__(self, parser, namespace, value, option_string=None):
        from minimask.presets import merge

        setattr(namespace, self.dest, merge(getattr(namespace, self.dest, {}), value))


def _add_evaluate(commands):
    parser = _command(
        commands, "evaluate", command_evaluate, "average precision of a trained model, as COCO counts it",
        """  python -m minimask evaluate --weights runs/toy
  python -m minimask evaluate --weights runs/mine --images photos --annotations val.json
  python -m minimask evaluate --weights data/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --images photos \\
      --annotations instances_val2017.json
""",
    )  # fmt: skip
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint, run or published weights")
    parser.add_argument("--images", metavar="DIR", help="folder of the photos (default: 200 unseen drawn scenes)")
    parser.add_argument("--annotations", metavar="FILE.json", help="their objects, in COCO's format")
    parser.add_argument("--output", metavar="DIR", help="for the results (default: evaluation, beside the weights)")
    parser.add_argument("--max-detections", type=_positive, default=100, help="counted in an image (default 100)")
    parser.add_argument("--batch-size", type=_positive, default=1, help="images at once (default 1)")
    _add_machine(parser)


def _positive(text):
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return value


def _add_predict(commands):
    parser = _command(
        commands, "predict", command_predict, "find objects in photos: a picture and a json for each",
        """  python -m minimask predict photo.jpg --weights runs/mine
  python -m minimask predict holiday/ --weights runs/mine --score 0.7 --output found
  python -m minimask predict photo.jpg --weights data/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth
""",
    )  # fmt: skip
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="PNG or JPEG files, or folders of them")
    parser.add_argument("--weights", required=True, metavar="FILE", help="checkpoint, run or published weights")
    parser.add_argument("--output", default="predictions", metavar="DIR", help="(default predictions)")
    parser.add_argument("--score", type=float, default=0.5, help="what scores lower is left out (default 0.5)")
    _add_machine(parser)


def _add_download(commands):
    from minimask.weights import download

    parser = _command(
        commands, "download", command_download, "fetch published weights, or list what there is",
        """  python -m minimask download
  python -m minimask download maskrcnn_resnet50_fpn
""",
    )  # fmt: skip
    download.add_arguments(parser)


def _add_convert(commands):
    parser = _command(
        commands, "convert", command_convert, "turn published weights into a checkpoint, or into torchvision's layout",
        """  python -m minimask convert data/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --output runs/coco
  python -m minimask convert runs/mine --output mine.safetensors
""",
    )  # fmt: skip
    parser.add_argument("weights", metavar="FILE", help="published weights, a checkpoint, or a run's folder")
    parser.add_argument(
        "--output", required=True, metavar="PATH",
        help="a folder or FILE.npz for a checkpoint of minimask; FILE.safetensors for torchvision's names and layout",
    )  # fmt: skip
    parser.add_argument("--torchvision", action="store_true", help="torchvision's names and layout in a FILE.npz too")
    parser.add_argument("--small", action="store_true", help="a checkpoint of a quarter of the size, to be passed on")
    parser.add_argument(
        "--set", type=_setting, action=_Collect, default={}, metavar="GROUP.NAME=VALUE",
        help="any setting of MaskRCNN that the weights do not tell; may be repeated",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace what is there already")


def _add_split(commands):
    parser = _command(
        commands, "split", command_split, "divide a COCO file into one for training and one for validation",
        """  python -m minimask split instances.json --every 5
      by file name, images 0, 5, 10, ... go to instances_val.json, the others to instances_train.json
""",
    )  # fmt: skip
    parser.add_argument("annotations", metavar="FILE.json", help="the COCO file")
    parser.add_argument("--every", type=int, default=5, help="every so manieth image is for validation (default 5)")
    parser.add_argument("--output", metavar="DIR", help="folder for the two files (default: beside the first)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")


def _add_benchmark(commands):
    from minimask import benchmark

    parser = _command(
        commands, "benchmark", command_benchmark, "time and memory on this machine, alone or against torchvision",
        """  python -m minimask benchmark
  python -m minimask benchmark --only whole --reference ~/torch/bin/python
""",
    )  # fmt: skip
    benchmark.add_arguments(parser)


def _add_compile(commands):
    parser = _command(
        commands, "compile", command_compile, "compile the kernels now, not at the first use",
        "  python -m minimask compile\n",
    )  # fmt: skip
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)


def _add_course(commands):
    from minimask.course.commands import COMMANDS

    for name, (text, examples, add_arguments, run) in COMMANDS.items():
        add_arguments(_command(commands, name, run, text, examples))


def _say_once(text):
    """Of several workers the first says it for all."""
    from minimask.machine import distributed

    if distributed.is_first():
        _say(text)


def _say(text):
    print(f"minimask: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
