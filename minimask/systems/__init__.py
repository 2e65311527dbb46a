"""The systems that the decks compare with Mask R-CNN, each in one short file on the same stages.

    model = minimask.build("fcis", classes=["cat", "dog", "duck"], system={"parts": 7})
    python -m minimask train --system fcis --set system.parts=7

A system that is only a choice of settings is a preset (presets.py). What is here is a different algorithm. A class of
this package has

    preset      the groups of settings that it is built from unless others are given: a model for drawn scenes
    groups      the names of the groups of settings that it understands (run/model_settings.py)
    kinds       classes of its own for some of these groups, if it does not understand all of their settings
    Settings    its own settings, the group "system"

and is called as `Class(num_classes, system=..., **groups)`. Like MaskRCNN, it returns losses in training and Detections
in inference, so training, evaluation, prediction, drawing and checkpoints serve it too.
"""

import importlib

from minimask.errors import InputError
from minimask.run.settings import check_name

SYSTEMS = {  # name -> its module and class, which are imported when the system is first used
    "slow_rcnn": "slow_rcnn.SlowRCNN",
    "fast_rcnn": "fast_rcnn.FastRCNN",
    "sds": "sds.SDS",
    "hypercolumns": "hypercolumns.Hypercolumns",
    "cfm": "cfm.CFM",
    "fcis": "fcis.FCIS",
    "fcn": "fcn.FCN",
    "g_rmi": "inception_resnet.GRMI",
    "mnc": "mnc.MNC",
    "tdm": "tdm.TDM",
    "deep_watershed": "deep_watershed.DeepWatershed",
    "pfn": "pfn.PFN",
    "instance_cut": "instance_cut.InstanceCut",
    "crf": "crf.CRF",
}


def system_class(name):
    """The class of a system. Raises InputError for an unknown name, with a suggestion."""
    check_name("system", name, SYSTEMS)
    module, kind = SYSTEMS[name].split(".")
    return getattr(importlib.import_module(f"minimask.systems.{module}"), kind)


def needs(module, package):
    """Import a module of a library that only some systems need.

    module: its name, such as "scipy.ndimage". package: the name under which pip knows the library.
    Raises InputError that says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"this system needs {package}; install it with: pip install 'minimask[systems]'") from error
