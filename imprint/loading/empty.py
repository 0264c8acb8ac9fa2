"""A base without its weights: the network on the meta device, and the template."""

from pathlib import Path

import torch

from imprint.models.checkpoint import without_stale_quantization_config
from imprint.models.families import build_network, read_config
from imprint.models.network import Network
from imprint.models.quantized_layers import folder_format, with_format
from imprint.models.vocabulary import reduce_vocabulary_memory
from imprint.quant.formats import CONFIG_FIELD, find_format
from imprint.quant.names import FormatName
from imprint.templates import Template, TemplateName, read_template
from imprint.tokenizers import missing_tokenizer_error, tokenizer_file


def empty_network(
    folder: Path, dtype: torch.dtype, quantize: FormatName | None, *, quantize_head: bool = False, embedding_on_host: bool = False
) -> Network:
    """The network of a model folder without weights, in a compute dtype and a weight format, on the meta device."""
    fields = read_config(folder)
    if fields.get(CONFIG_FIELD):
        fields = without_stale_quantization_config(fields, folder)
    weight_format = None if quantize is None else find_format(quantize)
    with torch.device("meta"):
        network = build_network(with_format(fields, weight_format, folder), folder).to(dtype)
        if quantize_head or embedding_on_host:
            reduce_vocabulary_memory(network, quantize_head=quantize_head, embedding_on_host=embedding_on_host)
    return network


def is_quantized(folder: Path) -> bool:
    """Whether the weights of a model folder are quantized already."""
    return folder_format(read_config(folder), folder) is not None


def open_folder_template(folder: Path, template: TemplateName, *, date: str | None) -> Template:
    """The prompt template of a model folder, with its tokenizer. Raises UserError where there is none."""
    fields = read_config(folder)
    opened = read_template(folder, fields, template, date=date)
    if opened is None:
        raise missing_tokenizer_error(folder, tokenizer_file(fields))
    return opened
