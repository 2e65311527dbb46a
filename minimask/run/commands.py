"""What the commands do, each in a few calls of the package. __main__.py holds their parsers."""

import collections
import json
from pathlib import Path

from minimask.errors import InputError
from minimask.run.messages import say, say_problems
from minimask.run.options import DataOptions, EvaluateOptions, PredictOptions, TrainOptions, given

DEMO = dict(preset="toy", steps=2400, batch_size=4, learning_rate=1.5e-3)
DEMO_PICTURES = 4
LABELS = ("class_names", "category_ids", "keypoint_names", "skeleton")  # what labels and keypoints mean


def tell(error):
    """Print what went wrong in one message for users; returns the exit status. Raises any other error again."""
    if isinstance(error, InputError):
        return fail(str(error))
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return fail(f"{where}{error.strerror or error}")
    if isinstance(error, MemoryError):
        return fail(f"not enough memory ({error}); try smaller images (--max-size) or fewer at once (--batch-size)")
    if isinstance(error, KeyboardInterrupt):
        say("stopped")
        return 130
    raise error


def fail(message):
    """Print an error message; returns the exit status 2."""
    say(f"error: {message}")
    return 2


def train(args):
    """python -m minimask train"""
    from minimask.machine import distributed

    if args.distributed:
        with distributed.session(tell):
            if distributed.size() == 1:
                say("this is a single worker; start several with: mpiexec -n 4 python -m minimask train ...")
            return _train(args)
    if distributed.started_by_mpiexec() > 1:
        raise InputError("train: mpiexec started several processes; they share one run only with --distributed")
    return _train(args)


def _train(args):
    from minimask.machine import distributed
    from minimask.run import training

    options = given(args, TrainOptions)
    run = training.train(output=args.output, resume=args.resume, overwrite=args.overwrite, quiet=args.quiet, **options)
    if args.quiet or not distributed.is_first():
        return
    print(f"weights: {run.checkpoint}")
    print(f"log:     {run.folder / 'log.jsonl'} (losses.png, metrics.csv)")
    data = ""
    if options.get("images"):
        images = options.get("val_images") or options["images"]
        data = f" --images {images} --annotations {options.get('val_annotations') or 'FILE.json'}"
    print(f"next:    python -m minimask evaluate --weights {args.output}{data}")


def evaluate(args):
    """python -m minimask evaluate"""
    from minimask import weights
    from minimask.run import evaluation, training

    if (args.images is None) != (args.annotations is None):
        raise InputError("evaluate: --images and --annotations belong together; give both, or neither for drawn scenes")
    options = EvaluateOptions.of(given(args, EvaluateOptions))
    training.set_up_machine(options)
    opened = weights.open_file(args.weights, args.classes)
    _say_skipped(args.weights, opened)
    model = opened.model

    data = TrainOptions(**opened.settings.get("options", {}))
    dataset = _test_data(args, data, model)
    if not args.quiet:
        say_problems(dataset)
    path = Path(args.weights)
    output = Path(args.output) if args.output else (path if path.is_dir() else path.parent) / "evaluation"
    note = f"Weights: {args.weights}. Data: {args.annotations or 'drawn scenes'}."
    evaluation.evaluate(model, dataset, output, args.quiet, note, **given(args, EvaluateOptions))
    if not args.quiet:
        print(f"\nreport: {output / 'report.html'} (and the results in COCO's format, beside it)")


def _test_data(args, options, model):
    """The data that `evaluate` was given, with the model's classes in its order if it has no object of another."""
    from minimask import datasets

    if not args.annotations:
        return datasets.toy("test", options.toy_size, case=options.toy_case)
    options = {"keypoints": bool(model.keypoint_names), "quiet": True, **given(args, DataOptions)}
    dataset = datasets.coco(args.images, args.annotations, **options)
    ours, theirs = list(model.class_names), list(dataset.class_names)
    used = {dataset.class_names[dataset.category_ids.index(a["category_id"])] for a in dataset.coco_dict["annotations"]}
    if theirs != ours and set(theirs) & set(ours) and used <= set(ours):
        dataset = datasets.coco(args.images, args.annotations, ours, **options)
    return dataset


def _say_skipped(path, opened):
    if opened.report and opened.report.skipped:
        say(f"weights of {path}:\n{opened.report}")


def predict(args):
    """python -m minimask predict"""
    from minimask import device, weights
    from minimask.machine import warmup
    from minimask.run.files import check_writable_file, json_bytes, write_files
    from minimask.run.photo_paths import find_photos, passed_text
    from minimask.run.predict import coco_results, predict_files
    from minimask.run.training import set_up_machine

    options = PredictOptions.of(given(args, PredictOptions))
    set_up_machine(options)
    passed = collections.Counter()
    find_photos(args.photos, options.recursive, passed)  # a wrong path is reported before anything slow is done
    if passed and not args.quiet:
        say(f"passed over: {passed_text(passed)}")
    if options.coco:
        check_writable_file(options.coco)
    where = device.resolve(options.device)
    opened = weights.open_file(args.weights, args.classes)
    _say_skipped(args.weights, opened)
    model = opened.model
    model.to(where)
    if where == "cpu":
        warmup.ensure(not args.quiet)
    written = predict_files(model, args.photos, args.output, options.score, not args.quiet, options.recursive)
    if options.coco:
        write_files({options.coco: json_bytes(coco_results(written))})
    if args.quiet:
        return
    for photo, picture, record in written:
        count = len(json.loads(Path(record).read_text(encoding="utf-8"))["detections"])
        print(f"{photo}: {count} object{'s' * (count != 1)}, {picture}")


def download(args):
    """python -m minimask download"""
    from minimask.weights import download as downloads

    return downloads.main(args)


def convert(args):
    """python -m minimask convert"""
    from minimask import checkpoint, weights

    output = Path(args.output)
    theirs = args.torchvision or output.suffix.lower() == ".safetensors"
    if theirs and args.small:
        raise InputError("convert: --small is for a checkpoint of minimask, not for torchvision's layout")
    if not theirs and output.suffix.lower() != ".npz":
        output = output / "checkpoint-00000000.npz"
        if checkpoint.checkpoints(output.parent) and not args.overwrite:
            raise InputError(f"{output.parent}: holds checkpoints already; choose another --output, or --overwrite")
    if output.exists() and not args.overwrite:
        raise InputError(f"{output}: exists already; choose another --output, or --overwrite")
    if weights.is_graph(args.weights):
        weights.read(args.weights)  # says that it cannot be converted
    opened = weights.open_file(args.weights, args.classes, **args.set)
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


def split(args):
    """python -m minimask split"""
    from minimask.datasets.coco import split as split_coco
    from minimask.datasets.coco_file import finite, read_coco
    from minimask.run.files import json_bytes, write_files

    source = Path(args.annotations)
    output = Path(args.output) if args.output else source.parent
    content, problems = read_coco(source, **given(args, DataOptions))
    if str(problems):
        say(problems)
    parts = dict(zip(("train", "val"), split_coco(finite(content), args.every)))
    for name, part in parts.items():
        if not part["images"]:
            raise InputError(f"{source}: has too few images to split: none would be left for {name}")
    paths = {name: output / f"{source.stem}_{name}.json" for name in parts}
    if not args.overwrite:
        for path in paths.values():
            if path.exists():
                raise InputError(f"{path}: exists already; delete it, write elsewhere (--output), or use --overwrite")
    write_files({paths[name]: json_bytes(part) for name, part in parts.items()})
    for name, part in parts.items():
        print(f"{paths[name]}: {len(part['images'])} images, {len(part['annotations'])} objects")


def demo(args):
    """python -m minimask demo"""
    from minimask import datasets, weights
    from minimask.run import evaluation, training
    from minimask.run.options import MachineOptions

    folder, machine = Path(args.output), given(args, MachineOptions)
    options = {**DEMO, **given(args, TrainOptions)}
    if args.quick:
        print("1. a small Mask R-CNN that was trained on drawn scenes of cats, dogs and ducks")
        training.set_up_machine(MachineOptions(**machine))
        model = weights.load("toy")
    else:
        print(
            f"1. training a Mask R-CNN from scratch on drawn scenes of cats, dogs and ducks: {options['steps']} steps"
        )
        model = training.train(output=folder, overwrite=True, **options).model

    dataset = datasets.toy("test", count=20 if args.quick else None)
    print(f"2. average precision on {len(dataset)} scenes it has never seen")
    evaluation.evaluate(model, dataset, folder / "evaluation", **machine)
    picture = folder / "predictions.png"
    draw_beside_truth(model, dataset, picture, DEMO_PICTURES)
    print(f"3. a picture: {picture} (left: the ground truth, right: what was found)")
    weights_shown = "toy" if args.quick else folder
    print(
        f"""
What to try next
  python -m minimask predict PHOTO.png --weights {weights_shown}     any picture of your own
  python -m minimask train --steps 2000 --output runs/longer   train longer: what becomes better?
  python -m minimask train --set roi.pooling=roi_pool --output runs/roi_pool
                                                               RoIPool instead of RoIAlign: what becomes worse?
  python -m minimask train --images DIR --annotations FILE.json --minutes 10 --output runs/mine
                                                               your own photos, with a COCO file"""
    )


def draw_beside_truth(model, dataset, path, count):
    """Write one picture of the first `count` scenes: the ground truth of each, and beside it what the model found."""
    from minimask import draw

    pictures, titles = [], []
    for i in range(count):
        sample = dataset[i]
        found = model.predict(sample.image)
        pictures += [
            draw.draw_sample(sample, model.class_names, keypoints=False, side=512),
            draw.draw_prediction(sample.image, found, model.class_names, side=512),
        ]
        titles += [f"{sample.name}: truth", "found"]
    draw.save_picture(path, draw.grid(pictures, columns=4 if count > 1 else 2, titles=titles))


def benchmark(args):
    """python -m minimask benchmark"""
    from minimask import benchmark as measure

    return measure.main(args)


def compile_kernels(args):
    """python -m minimask compile"""
    from minimask.machine import warmup

    if args.serve:
        warmup.serve()
        return
    compiled = warmup.ensure()
    print(f"compiled: {', '.join(compiled)}" if compiled else "all kernels are compiled already")
