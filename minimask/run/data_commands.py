"""The commands about data sets: import, and what they share. __main__.py holds their parsers."""

from pathlib import Path

from minimask.errors import InputError
from minimask.run.messages import say
from minimask.run.options import DataOptions, given

FORMATS = ("labelme", "via", "yolo", "voc", "labels")  # datasets/formats reads them


def import_annotations(args):
    """python -m minimask import"""
    from minimask.datasets.formats import to_coco
    from minimask.run.files import check_writable_file, json_bytes, write_files

    output = Path(args.output)
    if output.is_dir():
        raise InputError(
            f"import: output must be a file, but {output} is a folder; write {output / 'annotations.json'}"
        )
    if output.exists() and not args.overwrite:
        raise InputError(f"{output}: exists already; delete it, write elsewhere (--output), or use --overwrite")
    check_writable_file(output)
    content, root, problems = to_coco(args.source, args.format, args.images, args.classes)
    if not DataOptions(**given(args, DataOptions)).skip_bad:
        problems.refuse("Nothing was written. Mend these, or leave them out with --skip-bad.")
    if str(problems):
        say(problems)
    write_files({output: json_bytes(content)})
    counts = (len(content[key]) for key in ("images", "annotations", "categories"))
    print("{}: {} images, {} objects, {} classes".format(output, *counts))
    if len(problems):
        print(f"left out: {len(problems)}")
    print(f"next:    python -m minimask inspect --images {root} --annotations {output}")


def inspect(args):
    """python -m minimask inspect"""
    from minimask import draw
    from minimask.run import inspection
    from minimask.run.files import check_writable

    if args.images:  # its pictures are drawn only then
        check_writable(args.output)
    found = inspection.inspect(args.source, args.images, args.annotations)
    print(found)
    for name, picture in found.pictures.items():
        path = Path(args.output) / name
        draw.save_picture(path, picture())
        print(inspection.row("picture", path))
    if found.refusal:
        raise InputError(found.refusal)
