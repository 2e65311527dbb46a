"""Which modules of minimask/ are the lecture: the engine, and the stages in their order."""

ENGINE = "tensor functional nn optim device convolution normalization".split()
STAGES = """
image structures backbone fpn anchors boxes rpn targets losses roi_pool roi_align box_head mask_head keypoint_head
mask_rcnn
""".split()
