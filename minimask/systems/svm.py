"""What R-CNN fits to fixed features: a linear SVM with hard negatives, and a ridge regression of boxes.

Girshick et al. 2014, section 2.3 and appendix C. Both are convex, so scikit-learn finds the best solution; there is no
learning rate and no step. (The authors' hinge loss is squared here, which converges in far fewer passes.)
"""

import numpy as np

from minimask.systems import needs

COST, LENGTH = 1e-3, 20.0  # the authors' C, for features whose mean length is 20
RIDGE = 1000.0  # the authors' lambda
MARGIN = -1.0  # negatives below it are easy: they do not change the SVM
ROUNDS = 3


def fit_svm(positives, negatives):
    """A linear SVM: weight (F,) and bias, so that `features @ weight + bias` is at least 1 for what is like a positive.

    positives (P, F), negatives (Q, F): features. There are far more negatives, and most of them are easy. So a first
    SVM sees every tenth negative; then those that it finds hard are added, and it is fitted again.
    """
    LinearSVC = needs("sklearn.svm", "scikit-learn").LinearSVC
    scale = LENGTH / max(np.linalg.norm(positives, axis=1).mean(), 1e-9)
    chosen = np.arange(len(negatives)) % 10 == 0
    for _ in range(ROUNDS):
        features = np.concatenate([positives, negatives[chosen]]) * scale
        svm = LinearSVC(C=COST, loss="squared_hinge", dual=False, intercept_scaling=10, max_iter=5000)
        svm.fit(features, np.arange(len(features)) < len(positives))
        weight, bias = svm.coef_[0] * scale, float(svm.intercept_[0])
        hard = negatives @ weight + bias > MARGIN
        if not (hard & ~chosen).any():
            break
        chosen |= hard
    return weight.astype(np.float32), bias


def fit_ridge(features, targets):
    """Ridge regression: weight (F, 4) and bias (4,), so that `features @ weight + bias` is close to targets (A, 4)."""
    ridge = needs("sklearn.linear_model", "scikit-learn").Ridge(alpha=RIDGE)
    ridge.fit(features, targets)
    return ridge.coef_.T.astype(np.float32), ridge.intercept_.astype(np.float32)
