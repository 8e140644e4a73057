"""Sizes of the hMLP stem, shared by the picture code and the model (1-system section 3)."""

FOLDS = (5, 2, 4)  # pixels folded by each linear layer: 5 * 2 * 4 = 40
PATCH = FOLDS[0] * FOLDS[1] * FOLDS[2]
