"""Real images with labels, by name. Only evaluation and the training of teachers open them."""

from stages.registry import Spec

DIGITS = Spec(
    "digits",
    "stages.data.digits:load_digits",
    "UCI handwritten digits, 8x8 grey, 10 classes; shipped with the package",
)
CIFAR10 = Spec(
    "cifar10",
    "stages.data.cifar:load_cifar10",
    "CIFAR-10, 32x32 RGB; under evaluation.root, downloaded only if asked",
)
CIFAR100 = Spec(
    "cifar100",
    "stages.data.cifar:load_cifar100",
    "CIFAR-100 with its fine classes, 32x32 RGB; under evaluation.root, downloaded only if asked",
)
IMAGEFOLDER = Spec(
    "imagefolder",
    "stages.data.imagefolder:load_imagefolder",
    "one folder of images a class, under evaluation.root/split or evaluation.root",
)
