"""Wrong settings of the model: each ends in one clear message where the model is built, and leaves nothing behind."""

import pytest

from minimask import build
from minimask.__main__ import main
from minimask.errors import InputError
from minimask.run.options import model_setting

# What somebody writes after --set, and a part of the message.
WRONG = [
    ("num_classes=5", "num_classes is no setting of the model's groups: .*argument of build"),
    ("classes=3", "classes is no setting"),
    ("seed=3", "seed is no setting .*option --seed"),
    ("preset=small", "preset is no setting .*option --preset"),
    ("backbone=vgg16", "backbone.name must be resnet18, .*, got 'vgg16'"),
    ("backbone=5", "backbone must be a dict of settings, got 5"),
    ("backbone.nme=resnet18", "unknown setting backbone.nme; did you mean name"),
    ("backbone.name=resnet-50", "backbone.name must be .*did you mean resnet50"),
    ("norm=layer", "norm; it is part of a group: .*--set backbone.norm="),
    ("backbone.norm=layer", "backbone.norm must be batch, frozen or group, got 'layer'"),
    ("backbone.norm=grop", "did you mean group"),
    ("backbone.neck=fpm", "backbone.neck must be fpn, c4 or c5, got 'fpm'; did you mean fpn"),
    ("backbone.neck=C4", "did you mean c4"),
    ("backbone.neck=null", "backbone.neck must be"),
    ("backbone.stem=tiny", "backbone.stem must be large, small or fine"),
    ("backbone.channels=64", "backbone.channels must be a list of integers of at least 1, got 64"),
    ("backbone.channels=[64,128]", "backbone.channels must be 4 integers"),
    ("backbone.channels=[]", "backbone.channels must be 4 integers"),
    ("backbone.channels=[32,64,128,0]", "backbone.channels must be a list of integers of at least 1"),
    ("backbone.channels=[32,64,128,1.5]", "backbone.channels must be a list of integers"),
    ("backbone.channels=[[32,64,128,256]]", "backbone.channels must be a list of integers"),
    ("backbone.layers=[1,1,1]", "backbone.layers must be 4 integers"),
    ("backbone.layers=2", "backbone.layers must be a list of integers"),
    ("backbone.groups=4", "are not for resnet18, which has basic blocks"),
    ('backbone={"name":"resnext50_32x4d","channels":[1,1,1,1]}', "do not go with groups 32 and group_width 4"),
    ('backbone={"norm":"group","channels":[32,60,64,64]}', "norm group needs channels that are multiples of 8"),
    ("backbone.norm_eps=-1", "backbone.norm_eps must be a number of at least 0, got -1"),
    ("backbone.norm_eps=NaN", "backbone.norm_eps must be a number"),
    ("backbone.fpn_channels=0", "backbone.fpn_channels must be an integer of at least 1, got 0"),
    ("fpn_channels=0", "it is part of a group"),
    ("backbone.fpn_channels=64.5", "backbone.fpn_channels must be an integer"),
    ('backbone.fpn_channels="64"', "backbone.fpn_channels must be an integer"),
    ("backbone.fpn_pool=1", "backbone.fpn_pool must be true or false, got 1"),
    ("backbone.fpn_pool=yes", "backbone.fpn_pool must be true or false, got 'yes'"),
    ("backbone.fpn_pool=true", r"rpn.anchor_sizes must be 4 lists, .*got 3: \[\[14,20\],\[28,40\],\[56,80\]\]"),
    ("roi_samples=64", r"it is part of a group: roi=\{'samples': ...\} \(on the command line --set roi.samples="),
    ("backbone_settings={}", "unknown model setting backbone_settings; did you mean backbone"),
    ("rpn=5", "rpn must be a dict of settings, got 5"),
    ('rpn={"foo":1}', "unknown setting rpn.foo"),
    ("rpn.sample=64", "unknown setting rpn.sample; did you mean samples"),
    ("rpn.samples=0", "rpn.samples must be an integer of at least 1, got 0"),
    ("rpn.samples=true", "rpn.samples must be an integer"),
    ("rpn.samples=many", "rpn.samples must be an integer of at least 1, got 'many'"),
    ("rpn.samples.more=3", "rpn.samples must be an integer"),
    ("rpn.anchor_sizes=8", "rpn.anchor_sizes must be a list of lists"),
    ("rpn.anchor_sizes=[8]", "rpn.anchor_sizes must be a list of lists"),
    ("rpn.anchor_sizes=[[8],[16]]", "rpn.anchor_sizes must be 3 lists, one for each level that the RPN reads"),
    ("rpn.anchor_sizes=[[8],[16],[32],[64]]", "rpn.anchor_sizes must be 3 lists"),
    ("rpn.anchor_sizes=[]", "rpn.anchor_sizes must be 3 lists"),
    ("rpn.anchor_sizes=[[8],[16,32],[64]]", "the same number of anchors on each level"),
    ("rpn.anchor_sizes=[[],[],[]]", "at least one"),
    ("rpn.anchor_sizes=[[8],[16],[-1]]", "rpn.anchor_sizes must be a list of lists of numbers above 0"),
    ("anchor_sizes=[[8],[16],[32]]", "--set rpn.anchor_sizes="),
    ("rpn.anchor_ratios=2", "rpn.anchor_ratios must be a list of numbers"),
    ("rpn.anchor_ratios=[]", "at least one"),
    ("rpn.anchor_ratios=[[1],[2]]", "rpn.anchor_ratios must be one list for all levels, or 3 lists, got 2"),
    ("rpn.anchor_ratios=[1,0]", "rpn.anchor_ratios must be .* above 0"),
    ("rpn.first_level=9", "rpn.first_level must leave a level to the RPN, got 9"),
    ("rpn.first_level=0", "rpn.anchor_sizes must be 4 lists"),
    ("rpn.low=0.9", "rpn.low must not exceed rpn.high"),
    ("rpn.high=7", "rpn.high must be a number of at least 0 and at most 1, got 7"),
    ("rpn.pre_nms=500", "rpn.pre_nms must be 2 integers"),
    ("rpn.pre_nms=[1,2,3]", "rpn.pre_nms must be 2 integers"),
    ("roi.pooling=roi_aling", "roi.pooling must be .*did you mean roi_align"),
    ("roi.pooling=5", "roi.pooling must be"),
    ("roi.box_size=0", "roi.box_size must be an integer of at least 1"),
    ("roi.canonical_size=-3", "roi.canonical_size must be a number above 0"),
    ("rois.samples=3", "unknown model setting rois; did you mean roi"),
    ("heads.mask=conv", "heads.mask must be fcn or mlp, or none, got 'conv'"),
    ("heads.mask_channels=64", "heads.mask_channels must be a list of integers"),
    ("mask_channels=64", "--set heads.mask_channels="),
    ("heads.class_agnostic_masks=no", "heads.class_agnostic_masks must be true or false"),
    ("heads.keypoints=-1", "heads.keypoints must be an integer of at least 0"),
    ('heads={"keypoints":3,"keypoint_channels":[]}', "heads.keypoint_channels must not be empty"),
    ('detection={"nms":0.3}', "unknown setting detection.nms; did you mean nms_threshold"),
    ("detection.score_threshold=50", "detection.score_threshold must be a number of at least 0 and at most 1"),
    ("detection.max_detections=0", "detection.max_detections must be an integer of at least 1"),
    ("transform.mean=[0.5]", "transform.mean must be 3 numbers, got"),
    ("image_mean=[0.5]", "unknown model setting image_mean"),
    ("transform.std=[0,1,1]", "transform.std must be 3 numbers above 0"),
    ("transform.min_size=big", "transform.min_size must be an integer"),
    ("conventions=caffe", "conventions.name must be torchvision, detectron2 or paper, got 'caffe'"),
    ("conventions.aligned=2", "conventions.aligned must be true or false"),
    ("conventions.anchor_rounding=up", "conventions.anchor_rounding must be none, pixels or cells"),
]


@pytest.mark.parametrize("text, message", WRONG, ids=[text for text, _ in WRONG])
def test_build_refuses_in_one_line(text, message):
    name = text.partition("=")[0]
    groups = model_setting(text)
    if name in ("num_classes", "classes", "seed", "preset"):
        pytest.skip("an argument of build")
    with pytest.raises(InputError, match=message) as caught:
        build("toy", **groups)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text, message", WRONG, ids=[text for text, _ in WRONG])
def test_train_refuses_and_leaves_nothing(tmp_path, capsys, text, message):
    output = tmp_path / "run"
    assert main(["train", "--steps", "2", "--output", str(output), "--set", text]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and not output.exists()
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(errors)


def test_a_neck_without_a_pyramid_takes_the_anchors_of_all_levels():
    for neck in ("c4", "c5"):
        model = build("toy", backbone={"neck": neck})
        assert model.rpn.settings.anchor_sizes == ((14, 20, 28, 40, 56, 80),)
        assert build(**model.settings).rpn.settings.anchor_sizes == model.rpn.settings.anchor_sizes
    chosen = build("toy", backbone={"neck": "c4"}, rpn={"anchor_sizes": [[30]]})
    assert chosen.rpn.settings.anchor_sizes == ((30,),)
    with pytest.raises(InputError, match="rpn.anchor_sizes must be 1 list, "):
        build("toy", backbone={"neck": "c4"}, rpn={"anchor_sizes": [[30], [60]]})


@pytest.mark.parametrize("neck", ["c4", "c5"])
def test_toy_without_a_pyramid_trains_a_step(tmp_path, neck):
    import minimask

    options = dict(steps=1, batch_size=1, output=tmp_path / neck, quiet=True, workers=0)
    run = minimask.train(set={"backbone": {"neck": neck}}, **options)
    assert run.checkpoint.exists() and minimask.load(run.checkpoint).neck == neck


@pytest.mark.parametrize(("word", "value"), [("none", None), ("None", None), ("True", True), ("FALSE", False)])
def test_words_of_python_are_values(word, value):
    assert model_setting(f"heads.mask={word}") == {"heads": {"mask": value}}


def test_another_count_of_keypoints_is_refused_before_the_first_step(tmp_path, capsys):
    output = tmp_path / "run"
    assert main(["train", "--output", str(output), "--steps", "2", "--set", "heads.keypoints=3"]) == 2
    assert "learns 3 keypoints per object (heads.keypoints), the data has 8" in capsys.readouterr().err
    assert not output.exists()
