"""What the engine trains: a network and the part of it, or beside it, that learns; the method is a value."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from torch import Tensor, nn

from imprint.config import Field
from imprint.data.batch import Pack
from imprint.errors import UserError
from imprint.models.attention import Prefix
from imprint.models.checkpoint import save_network
from imprint.models.loss import target_loss
from imprint.models.network import Network
from imprint.tokenizers import ChatGLMTokenizer
from imprint.tune.adapter import Description, fingerprint, load_adapter, save_adapter
from imprint.tune.full import FullSection, unfreeze
from imprint.tune.prefix import LENGTH, PrefixEncoder, PrefixSection, PrefixShape, start_prefix

TuneSection = Annotated[PrefixSection | FullSection, Field(discriminator="method", description="What is trained.")]


class Tuner(nn.Module):
    """A frozen network with a prefix that learns, or a network that learns as a whole."""

    def __init__(
        self, network: Network, section: PrefixSection | FullSection, encoder: PrefixEncoder | None, *, checkpointing: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.encoder = encoder
        self.section = section
        self.checkpointing = checkpointing

    def forward(self, pack: Pack) -> Tensor:
        """Summed cross-entropy of the pack's targets, with the prefix's dropout while training."""
        dropout = self.section.prefix_dropout if self.training and isinstance(self.section, PrefixSection) else 0.0
        hidden = self.network(pack, prefix=self.prefix(dropout=dropout), checkpointing=self.checkpointing and self.training)
        return target_loss(hidden[pack.targets], self.network.head_weight, pack.labels)

    def prefix(self, *, dropout: float = 0.0) -> Prefix | None:
        """What generation needs beside the network: the prefix as it stands, or nothing."""
        return None if self.encoder is None else self.encoder.prefix(self.network.dtype, dropout=dropout)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, under the original's names."""
        return dict(self.network.named_parameters()) if self.encoder is None else self.encoder.named_tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put saved values back into the parameters that learn."""
        for name, parameter in self.trained().items():
            if name not in tensors or tensors[name].shape != parameter.shape:
                raise UserError(
                    f"the saved state does not fit: {name} must have the shape {tuple(parameter.shape)}. Start in a new run folder."
                )
            parameter.data.copy_(tensors[name])

    def save(self, folder: Path, *, base: str, base_folder: Path, step: int, scores: dict[str, float]) -> None:
        """Write what was learned: an adapter folder, or a model folder in the official layout."""
        if self.encoder is None or not isinstance(self.section, PrefixSection):
            save_network(self.network, base_folder, folder)
            return
        shape, start = self.encoder.shape, self.section.start if self.section.adapter is None else "adapter"
        save_adapter(
            folder,
            self.encoder,
            Description(base, fingerprint(self.network), shape.length, shape.projection, start, "chatglm", step, scores),
            original=self.section.original_file,
        )


def start_tuner(network: Network, section: PrefixSection | FullSection, tokenizer: ChatGLMTokenizer, *, checkpointing: bool) -> Tuner:
    """The network made ready for a method.

    A prefix begins as an adapter left it, as the base's reading of a text, or as numbers. Raises UserError where an adapter is another
    one than the recipe says.
    """
    if isinstance(section, FullSection):
        unfreeze(network)
        return Tuner(network, section, None, checkpointing=checkpointing)
    if section.adapter is not None:
        return Tuner(network, section, _taken_up(section, section.adapter, network), checkpointing=checkpointing)
    shape = PrefixShape.of(network, section.length or LENGTH, projection=bool(section.projection))
    text_ids = tokenizer.encode(section.text) if section.start == "text" else []
    return Tuner(network, section, start_prefix(network, shape, section.start, text_ids), checkpointing=checkpointing)


def _taken_up(section: PrefixSection, adapter: Path, network: Network) -> PrefixEncoder:
    """The prefix of an adapter, which must be as long and as deep as the recipe says, where it says so."""
    encoder, _ = load_adapter(adapter, network)
    for knob, wanted, found in (
        ("length", section.length, encoder.shape.length),
        ("projection", section.projection, encoder.shape.projection),
    ):
        if wanted is not None and wanted != found:
            said, is_so = (str(value).lower() for value in (wanted, found))
            raise UserError(f"tune.{knob}: {said}, but it is {is_so} in {adapter}, which tune.adapter names. Leave tune.{knob} out.")
    return encoder
