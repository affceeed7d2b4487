"""SegFormer (Xie et al. 2021), from transformers, built from its configuration."""

from typing import Any

from torch import Tensor, nn

from fastpixcon.training import TrainingError
from fastpixcon.training.config import Model
from fastpixcon.training.models.contrast import ContrastNetwork

# Name -> widths of the four stages, their depths, width of the decoder: the paper's series of encoders.
_WIDE = (64, 128, 320, 512)
VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "segformer_b0": ((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "segformer_b1": (_WIDE, (2, 2, 2, 2), 256),
    "segformer_b2": (_WIDE, (3, 4, 6, 3), 768),
    "segformer_b3": (_WIDE, (3, 4, 18, 3), 768),
    "segformer_b4": (_WIDE, (3, 8, 27, 3), 768),
    "segformer_b5": (_WIDE, (3, 6, 40, 3), 768),
}


def build(config: Model, classes: int) -> ContrastNetwork:
    """Features at stride 4: what the decode head makes of all stages."""
    network = transformers().SegformerForSemanticSegmentation(settings(config.name, classes))
    head = network.decode_head
    classifier = nn.Sequential(head.dropout, head.classifier)
    channels = head.classifier.in_channels
    head.dropout, head.classifier = nn.Identity(), nn.Identity()
    return ContrastNetwork(Stages(network.segformer), head, classifier, channels, config.embedding_channels)


def settings(name: str, classes: int) -> Any:
    widths, depths, decoder = VARIANTS[name]
    return transformers().SegformerConfig(
        hidden_sizes=list(widths), depths=list(depths), decoder_hidden_size=decoder, num_labels=classes
    )


def transformers() -> Any:
    """The library, imported where it is needed: that takes seconds."""
    try:
        import transformers
    except ImportError:
        raise TrainingError(
            "model.name: SegFormer needs the package transformers: pip install 'fastpixcon[train]' installs it"
        ) from None
    return transformers


class Stages(nn.Module):
    """Images [B, 3, H, W] -> maps at strides 4, 8, 16, 32."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps: tuple[Tensor, ...] = self.transformer(images, output_hidden_states=True).hidden_states
        return maps


def published_names(state: dict[str, Tensor], network: ContrastNetwork) -> dict[str, Tensor]:
    """Weights by their published names -> by ours; transformers knows which of its versions calls them what.

    A tensor of another shape comes back without data, one of an unknown name under this name.
    """
    library = transformers()
    head: Any = network.decoder
    classifier: Any = network.classifier
    same = library.SegformerConfig.from_dict({**head.config.to_dict(), "num_labels": classifier[1].out_channels})
    logging = library.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # what does not fit is told by the caller
    logging.disable_progress_bar()
    try:
        model, found = library.SegformerForSemanticSegmentation.from_pretrained(
            None, config=same, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    shapes = {name: shape for name, shape, _ in found["mismatched_keys"]}
    renamed: dict[str, Tensor] = {name: state[name] for name in found["unexpected_keys"]}
    for name, tensor in model.state_dict().items():
        if name not in found["missing_keys"]:
            ours = name.replace("segformer.", "encoder.transformer.", 1)
            ours = ours.replace("decode_head.classifier.", "classifier.1.").replace("decode_head.", "decoder.", 1)
            renamed[ours] = tensor.new_empty(shapes[name], device="meta") if name in shapes else tensor
    return renamed
