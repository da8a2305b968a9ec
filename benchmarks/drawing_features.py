"""What drawing.py measures pictures by: features of the frozen EfficientNet-Lite0, and a classifier of styles on them.

n pictures, uint8 (n, 3, 64, 64) or float in 0..1; d numbers describe a picture.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mm.conversion_scripts.efficientnet_lite import IMAGE_MEAN, IMAGE_STD, load_efficientnet_lite0
from mm.recipes.sources import efficientnet_lite0_file

SIDE = 128  # pixels that the tower reads


def as_float(pictures: Tensor) -> Tensor:
    return pictures if pictures.is_floating_point() else pictures.float() / 255


class Features:
    """Numbers of pictures by the stem and stages of EfficientNet-Lite0."""

    def __init__(self):
        self.tower: torch.nn.Module = load_efficientnet_lite0(efficientnet_lite0_file(), SIDE).eval()

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> dict[str, np.ndarray]:
        """shown (n, 1280): the mean of the last map, of length 1: what is shown. drawn (n, d): means and deviations of
        the first maps: how it is drawn. map (n, 112): the mean of the fifth stage, for the Frechet distance."""
        parts = [self._part(as_float(part)) for part in pictures.split(64)]
        return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}

    def _part(self, pictures: Tensor) -> dict[str, Tensor]:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
        x = F.interpolate((pictures - mean) / std, size=SIDE, mode="bilinear", align_corners=False)
        tower, styles = self.tower, []
        x = tower.stem(x)  # pyright: ignore[reportCallIssue]
        for number, stage in enumerate(tower.stages):  # pyright: ignore[reportArgumentType]
            if number < 4:
                styles += [x.mean((2, 3)), x.std((2, 3))]
            x = stage(x)
            if number == 4:
                middle = x.mean((2, 3))
        shown = F.normalize(tower.head(x).mean((2, 3)), dim=1)  # pyright: ignore[reportCallIssue]
        return {"shown": shown, "drawn": torch.cat(styles, 1), "map": middle}


class StyleClassifier:
    """Logistic regression of the style, learned from real drawings as they are and blurred a little."""

    def __init__(self, features: np.ndarray, styles: np.ndarray):
        x, y = torch.from_numpy(features).double(), torch.from_numpy(styles)
        self.mean, self.std = x.mean(0), x.std(0) + 1e-6
        x = (x - self.mean) / self.std
        self.weight = torch.zeros(x.shape[1], int(y.max()) + 1, dtype=torch.double, requires_grad=True)
        self.bias = torch.zeros(self.weight.shape[1], dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weight, self.bias], max_iter=100)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(x @ self.weight + self.bias, y) + 1e-3 * self.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n,), the number of the style."""
        x = (torch.from_numpy(features).double() - self.mean) / self.std
        return (x @ self.weight + self.bias).argmax(1).numpy()


def blurred(pictures: Tensor) -> Tensor:
    """Float pictures through half their size and back."""
    small = F.avg_pool2d(as_float(pictures), 2)
    return F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)


def ranks(queries: np.ndarray, gallery: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,): how many of the gallery (m, d) are nearer to each query (n, d) than its own, at `truth` (n,)."""
    likeness = queries @ gallery.T
    own = np.take_along_axis(likeness, truth[:, None], 1)
    return (likeness > own).sum(1)
