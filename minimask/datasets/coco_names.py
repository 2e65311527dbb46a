"""The 80 categories of COCO with the ids of its files (1 to 90, ten of which were never used)."""

CATEGORIES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe",
    27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove", 41: "skateboard",
    42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife",
    50: "spoon", 51: "bowl", 52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot",
    58: "hot dog", 59: "pizza", 60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard",
    77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book",
    85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip

UNUSED = "N/A"  # what torchvision calls the other ids

PERSON_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
PERSON_SKELETON = (  # pairs that a line joins
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
    (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip


def meanings(num_classes, keypoints=0):
    """The meaning of labels 1, 2, ... of a published model.

    With 91 classes, labels are COCO's ids (torchvision). With 81, they are the 80 categories in the order of their ids
    (Detectron2). With 2 classes and 17 keypoints, the model finds people. Otherwise names are "class 1", "class 2", ...

    num_classes: number of classes including the background. keypoints: number of keypoints per object.
    Returns a dict with "class_names" and "category_ids" and, for people, "keypoint_names" and "skeleton".
    """
    ids = list(range(1, num_classes))
    if num_classes == 91:
        return {"class_names": [CATEGORIES.get(i, UNUSED) for i in ids], "category_ids": ids}
    if num_classes == 81:
        return {"class_names": list(CATEGORIES.values()), "category_ids": list(CATEGORIES)}
    if num_classes == 2 and keypoints == len(PERSON_KEYPOINTS):
        skeleton = [list(pair) for pair in PERSON_SKELETON]
        names = {"keypoint_names": list(PERSON_KEYPOINTS), "skeleton": skeleton}
        return {"class_names": [CATEGORIES[1]], "category_ids": ids, **names}
    return {"class_names": [f"class {i}" for i in ids], "category_ids": ids}
