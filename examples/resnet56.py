"""Example: the architecture of a trained checkpoint, for a spec of your own.

spec: callable:examples.resnet56:resnet56, with the checkpoint cifar10_resnet56.safetensors, from the repository root
"""

from torch import Tensor, nn

from optogram.models import Preprocess


class Block(nn.Module):
    """Basic block whose shortcut has no parameters: every second pixel, and channels of zeros on both sides."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.pad = (width - width_in) // 2
        self.conv1 = nn.Conv2d(width_in, width, 3, 2 if self.pad else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Of (image, channel, y, x)."""
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        short = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.pad else x
        return (out + short).relu()


class ResNet56(nn.Module):
    """He et al. (2016), section 4.2: three stages of nine blocks, for images of 32 x 32 in ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [(16, 16), (16, 32), (32, 64)]
        stages = [nn.Sequential(Block(a, b), *(Block(b, b) for _ in range(8))) for a, b in widths]
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (image, class)."""
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.linear(x.mean((2, 3)))


def resnet56() -> tuple[ResNet56, Preprocess]:
    """The module with random weights, and its preprocessing."""
    return ResNet56(), Preprocess(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
