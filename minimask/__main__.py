"""The command line: python -m minimask COMMAND ...

Only parsers stand here; what the commands do is in run/commands.py, and the options that Python has too are declared in
run/options.py. A command imports what it needs when it runs, so that the help and the first training step come soon.
"""

import argparse
import sys

from minimask import __version__
from minimask.errors import InputError
from minimask.machine.cache_folders import choose_settings_folders
from minimask.run import commands, data_commands, messages
from minimask.run.options import (
    Collect,
    DataOptions,
    EvaluateOptions,
    MachineOptions,
    PredictOptions,
    TrainOptions,
    add_options,
    model_setting,
    model_settings_text,
)
from minimask.run.settings import did_you_mean

DESCRIPTION = "Mask R-CNN from scratch: train, evaluate and use it, and make the notebooks of the course."
EPILOG = "python -m minimask COMMAND --help explains a command's options and shows examples."


def main(argv=None):
    """Run one command. Returns the exit status: 0, 2 after bad input (reported in one message), 130 after Ctrl-C."""
    messages.print_what_can_be_printed()
    choose_settings_folders()
    try:
        return _run(argv)
    except BrokenPipeError:  # the reader of our output has gone: minimask ... | head -1
        return 0
    except (InputError, OSError, MemoryError, KeyboardInterrupt) as error:
        return commands.tell(error)
    finally:
        messages.close_pipe()


def _run(argv):
    argv = sys.argv[1:] if argv is None else [str(word) for word in argv]
    parser, commands_by_name = make_parsers()
    if not argv:
        parser.print_help()
        return 0
    if argv[0] not in commands_by_name and not argv[0].startswith("-"):
        hint = did_you_mean(argv[0], commands_by_name)
        return commands.fail(f"unknown command {argv[0]}{hint} (known: {', '.join(commands_by_name)})")
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        return commands.fail(_unknown(unknown[0], commands_by_name[args.command], args.command))
    return args.run(args) or 0


def _unknown(word, parser, command):
    """The message for a word that a command does not take, with the option that was probably meant."""
    if not word.startswith("-"):
        return f"{command}: takes no {word!r}"
    flag = word.partition("=")[0]
    flags = [string for action in parser._actions for string in action.option_strings if string.startswith("--")]
    short = [f for f in flags if "".join(part[0] for part in f[2:].split("-")) == flag.lstrip("-")]  # --lr
    hint = f"; did you mean {short[0]}?" if short else did_you_mean(flag, flags)
    return f"{command}: unknown option {flag}{hint} (python -m minimask {command} --help lists them)"


def make_parsers():
    """The parser of the command line, and the parsers of its commands by name."""
    parser = argparse.ArgumentParser(
        prog="minimask", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"minimask {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for add in (
        _demo,
        _train,
        _evaluate,
        _predict,
        _download,
        _convert,
        _split,
        _import,
        _inspect,
        _benchmark,
        _tables,
        _compile,
        _course,
    ):
        add(subparsers)
    return parser, subparsers.choices


def _command(subparsers, name, run, text, examples):
    """A subcommand, with examples at the end of its help."""
    parser = subparsers.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="examples:\n" + examples.rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _quiet(parser):
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _demo(subparsers):
    parser = _command(
        subparsers,
        "demo",
        commands.demo,
        "see it all work: train, evaluate and draw on drawn scenes",
        """  python -m minimask demo --quick          a model that is trained already: half a minute
  python -m minimask demo                  train it here
  python -m minimask demo --steps 100      a quick look at training; it will not have learned much
""",
    )
    parser.add_argument("--output", default="runs/demo", metavar="DIR", help="for the results (default: runs/demo)")
    parser.add_argument("--quick", action="store_true", help="take the trained model that comes with minimask")
    parser.add_argument(
        "--steps", type=int, default=argparse.SUPPRESS, help=f"training steps (default: {commands.DEMO['steps']})"
    )
    add_options(parser, TrainOptions, ["seed"])
    add_options(parser, MachineOptions)


def _train(subparsers):
    parser = _command(
        subparsers,
        "train",
        commands.train,
        "train on drawn scenes, or on your own photos with a COCO file",
        r"""  python -m minimask train --steps 500 --output runs/toy
  python -m minimask train --output runs/toy --resume       go on after Ctrl-C, a crash or a power cut
  python -m minimask train --device cuda --cuda-graph       on a GPU
  mpiexec -n 4 python -m minimask train --distributed --batch-size 16     4 processes, 4 images each
  python -m minimask train --images photos --annotations train.json --minutes 10 --output runs/mine
  python -m minimask train --images photos --annotations train.json --val-annotations val.json --validate-every 200
  python -m minimask train --images photos --annotations train.json --output runs/mine --learning-rate 0.0001 \
      --weights data/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --new-heads

"""
        + model_settings_text(),
    )
    group = parser.add_argument_group("files")
    group.add_argument(
        "--output", default="runs/train", metavar="DIR", help="folder for checkpoints and log (default: runs/train)"
    )
    group.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --output")
    group.add_argument("--overwrite", action="store_true", help="delete an earlier run in --output")
    group.add_argument("--distributed", action="store_true", help="several workers share each batch (see the examples)")
    _quiet(group)
    add_options(parser, TrainOptions)


def _evaluate(subparsers):
    parser = _command(
        subparsers,
        "evaluate",
        commands.evaluate,
        "average precision of a trained model, as COCO computes it",
        r"""  python -m minimask evaluate --weights runs/toy
  python -m minimask evaluate --weights runs/mine --images photos --annotations val.json
  python -m minimask evaluate --weights data/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --images photos \
      --annotations instances_val2017.json
""",
    )
    _weights(parser)
    parser.add_argument("--images", metavar="DIR", help="folder of the photos (default: 200 unseen drawn scenes)")
    parser.add_argument("--annotations", metavar="FILE.json", help="their objects, in COCO's format")
    parser.add_argument("--output", metavar="DIR", help="for the results (default: evaluation, beside the weights)")
    _quiet(parser)
    add_options(parser, DataOptions)
    add_options(parser, EvaluateOptions)


def _weights(parser):
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help='run, checkpoint or published weights; or "toy"'
    )
    _classes(parser)


def _classes(parser):
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="names of the labels, in their order, for published weights of your own classes (they have no names)",
    )


def _predict(subparsers):
    parser = _command(
        subparsers,
        "predict",
        commands.predict,
        "find objects in photos; writes a picture and a json for each",
        """  python -m minimask predict photo.jpg --weights runs/mine
  python -m minimask predict holiday/ --weights runs/mine --score 0.7 --output found
  python -m minimask predict albums/ --recursive --weights runs/mine --coco found.json
  python -m minimask predict photo.jpg --weights data/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth
""",
    )
    parser.add_argument(
        "photos",
        nargs="+",
        metavar="PHOTO",
        help="photos (PNG, JPEG, WebP, TIFF, BMP or GIF), folders of them, or patterns such as 'holiday/*.jpg'",
    )
    _weights(parser)
    parser.add_argument("--output", default="predictions", metavar="DIR", help="for the results (default: predictions)")
    _quiet(parser)
    add_options(parser, PredictOptions)


def _download(subparsers):
    from minimask.weights import download

    parser = _command(
        subparsers,
        "download",
        commands.download,
        "fetch published weights, or list what there is",
        """  python -m minimask download
  python -m minimask download maskrcnn_resnet50_fpn
""",
    )
    download.add_arguments(parser)


def _convert(subparsers):
    parser = _command(
        subparsers,
        "convert",
        commands.convert,
        "turn published weights into a checkpoint, or a checkpoint into torchvision's layout",
        """  python -m minimask convert data/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --output runs/coco
  python -m minimask convert runs/mine --output mine.safetensors
""",
    )
    parser.add_argument("weights", metavar="FILE", help="published weights, a checkpoint, or a run's folder")
    parser.add_argument(
        "--output",
        required=True,
        metavar="PATH",
        help="a folder or FILE.npz for a checkpoint of minimask; FILE.safetensors for torchvision's names and layout",
    )
    _classes(parser)
    parser.add_argument("--torchvision", action="store_true", help="torchvision's names and layout in a FILE.npz too")
    parser.add_argument("--small", action="store_true", help="a checkpoint of a quarter of the size, to be shared")
    parser.add_argument(
        "--set",
        type=model_setting,
        action=Collect,
        default={},
        metavar="GROUP.NAME=VALUE",
        help="any setting of the model that the weights do not show; may be repeated",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def _split(subparsers):
    parser = _command(
        subparsers,
        "split",
        commands.split,
        "split a COCO file into one for training and one for validation",
        """  python -m minimask split instances.json --every 5
      by file name, images 0, 5, 10, ... go to instances_val.json, the others to instances_train.json
""",
    )
    parser.add_argument("annotations", metavar="FILE.json", help="the COCO file")
    parser.add_argument(
        "--every", type=int, default=5, metavar="N", help="put every Nth image into the validation set (default: 5)"
    )
    parser.add_argument("--output", metavar="DIR", help="folder for the two files (default: beside FILE.json)")
    add_options(parser, DataOptions)
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")


def _import(subparsers):
    parser = _command(
        subparsers,
        "import",
        data_commands.import_annotations,
        "turn annotations of labelme, VIA, YOLO, Pascal VOC, or label images into a COCO file",
        """  python -m minimask import labelme_folder --output annotations.json
  python -m minimask import via_project.json --images photos --output annotations.json
  python -m minimask import yolo_folder --output annotations.json --classes cat dog
  python -m minimask import cells --format labels --classes cell --output annotations.json
""",
    )
    parser.add_argument("source", metavar="SOURCE", help="the folder of the annotations, or the json file of VIA")
    parser.add_argument("--output", required=True, metavar="FILE.json", help="the COCO file to write")
    parser.add_argument("--images", metavar="DIR", help="folder of the photos, if they are not beside the annotations")
    parser.add_argument("--format", choices=data_commands.FORMATS, help="default: recognized by what is in the folder")
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="names of the classes, where the format numbers them"
    )
    add_options(parser, DataOptions)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def _inspect(subparsers):
    parser = _command(
        subparsers,
        "inspect",
        data_commands.inspect,
        "what is in a run, a file of weights, or a data set",
        """  python -m minimask inspect runs/mine
      is it finished, its losses and validation so far, how to go on
  python -m minimask inspect runs/mine/best.npz
  python -m minimask inspect data/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth
      the model, its classes, how it was trained, how many parameters each part has
  python -m minimask inspect --images photos --annotations instances.json
      numbers, problems, pictures; exits with 2 if training would refuse the file
""",
    )
    parser.add_argument(
        "source", nargs="?", metavar="WEIGHTS_OR_RUN", help='folder of a run, checkpoint, published weights, or "toy"'
    )
    parser.add_argument("--images", metavar="DIR", help="of a data set: folder of the photos")
    parser.add_argument("--annotations", metavar="FILE.json", help="of a data set: their objects, in COCO's format")
    parser.add_argument(
        "--output", default="runs/inspect", metavar="DIR", help="folder for its pictures (default: runs/inspect)"
    )


def _benchmark(subparsers):
    from minimask import benchmark

    parser = _command(
        subparsers,
        "benchmark",
        commands.benchmark,
        "measure time and memory on this machine, alone or against torchvision",
        """  python -m minimask benchmark
  python -m minimask benchmark --only whole --reference ~/torch/bin/python
""",
    )
    benchmark.add_arguments(parser)


def _tables(subparsers):
    from minimask.systems.tables import command

    text = "run the decks' tables again: every system, trained and compared on drawn scenes"
    command.add_arguments(_command(subparsers, "tables", command.tables, text, command.EXAMPLES))


def _compile(subparsers):
    parser = _command(
        subparsers,
        "compile",
        commands.compile_kernels,
        "compile the kernels now instead of at their first use",
        "  python -m minimask compile\n",
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)


def _course(subparsers):
    from minimask.course.commands import COMMANDS

    for name, (text, examples, add_arguments, run) in COMMANDS.items():
        add_arguments(_command(subparsers, name, run, text, examples))


if __name__ == "__main__":
    sys.exit(main())
