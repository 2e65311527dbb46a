"""Datasets: drawn scenes (toy), COCO json (coco), and the loader that batches them."""
