"""Networks by name: classifiers that teach or learn, and the generators that are inverted from a teacher.

Nothing here imports torch: a preset is checked against these specs before any network is built.
`stages.models.build` builds them, `stages.models.weights` reads and writes their weights.
"""

from __future__ import annotations

from stages.registry import Spec

WRN = Spec(
    name="wrn",
    target="stages.models.wrn:wide_resnet",
    summary="Wide ResNet for small images, depth 6n+4 and any width",
    pattern=r"wrn(?P<depth>\d+)_(?P<width>[1-9]\d*)",
    example="wrn40_2",
    meant_by={r"wide_?resnet_?(?!50_2$|101_2$)(\d+)_(\d+)": r"did you mean `wrn\1_\2`?"},
)

# Whoever says resnet50 means another network.
_CIFAR_DEPTHS = "|".join(str(6 * n + 2) for n in range(1, 201) if n != 8)

CIFAR_RESNET = Spec(
    name="cifar-resnet",
    target="stages.models.cifar_resnet:cifar_resnet",
    summary="the CIFAR ResNets of He et al., 6n+2 layers; resnet56b: shortcuts with weights, resnet32x4: wider too",
    pattern=rf"resnet(?P<depth>{_CIFAR_DEPTHS})(?P<variant>b|x4|)",
    example="resnet20",
    meant_by={rf"(?:.*\.)?(resnet(?:{_CIFAR_DEPTHS})(?:b|x4)?)(?:_cifar\d*)?": r"did you mean `\1`?"},
)

RESNET = Spec(
    name="resnet",
    target="stages.models.resnet:resnet",
    summary="ResNet-18 and ResNet-34 with the stem for small images",
    pattern=r"resnet(?P<depth>18|34)",
    example="resnet18",
    meant_by={r"(resnet(?:18|34))_cifar\d*": r"did you mean `\1`?"},
)

VGG = Spec(
    name="vgg",
    target="stages.models.vgg:vgg",
    summary="VGGs of 8, 11, 13, 16 or 19 layers with batch-norm for small images, one linear layer on top",
    pattern=r"vgg(?P<depth>8|11|13|16|19)",
    example="vgg11",
)

FOR_SMALL_IMAGES = (WRN, CIFAR_RESNET, RESNET, VGG)
"""Networks that make images of some 32 pixels smaller late, and larger ones no sooner."""

TORCHVISION = Spec(
    name="torchvision",
    target="stages.models.torchvision_models:torchvision_model",
    summary="any classifier of torchvision.models, by its name there",
    pattern=r"torchvision:(?P<name>[a-z]\w*)",
    example="torchvision:resnet18",
    meant_by={
        # Its names, with nothing in front of them or what its own documentation has there.
        r"(?:(?:torchvision\.)?models\.|torchvision[./])?(alexnet|convnext_(?:tiny|small|base|large)"
        r"|densenet(?:121|161|169|201)|efficientnet_(?:b[0-7]|v2_[sml])|googlenet|inception_v3|maxvit_t|mnasnet\d_\d+"
        r"|mobilenet_v(?:2|3_large|3_small)|regnet_[xy]_\w+|resnet(?:18|34|50|101|152)|resnext(?:50|101)_\d+x\dd"
        r"|shufflenet_v2_x\d_\d|squeezenet1_[01]|swin_\w+|vgg(?:11|13|16|19)(?:_bn)?|vit_[bhl]_\d+"
        r"|wide_resnet(?:50|101)_2)": (
            r"did you mean `torchvision:\1`? A network of your own is `path/to/file.py:factory`"
        ),
        r"mobile_?net_?(?:v_?)?(2|3_large|3_small)": r"did you mean `torchvision:mobilenet_v\1`?",
    },
)

FILE = Spec(
    name="file",
    target="stages.models.file_factory:model_from_file",
    summary="a function in a Python file of yours, called with num_classes if it takes that",
    # The function's name may be missing here, so that its absence gets a message of its own.
    pattern=r"(?P<path>.+\.py):?(?P<factory>(?<=:)[^\d\W]\w*|)",
    example="path/to/file.py:factory",
    meant_by={
        # timm's, with its own word in front, or with the name of its weights behind.
        r"(?:hf[-_]hub:)?(?:timm[:/.](?:models\.)?(.+)|([a-z]\w*\.\w*in\d+k\w*))": (
            r"a network of timm's is what a function in a Python file returns, `timm.create_model('\1\2',"
            r" num_classes=num_classes)`: name it by `path/to/file.py:factory`"
        ),
        r"(?:hf[-_]hub:)?((?:apple|facebook|google|microsoft|nvidia|openai)/[\w.-]+)": (
            r"a network of a hub, `\1`, is what a function in a Python file returns: name it by"
            r" `path/to/file.py:factory`; its forward gives the logits alone, of transformers' networks `.logits`"
        ),
        r".*\.(?:pth|pt|th|ckpt|safetensors|onnx|bin)": (
            r"`teacher.weights` names a file of weights, `teacher.model` the network that they are of"
        ),
    },
)

DCGAN = Spec(
    name="dcgan",
    target="stages.models.generator:Generator",
    summary="the generator of Fast-Datafree and SSD-KD: a linear layer and convolutions, more of them for large images",
)
