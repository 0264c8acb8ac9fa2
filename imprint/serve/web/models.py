"""The models that somebody may use, and how they are described."""

from typing import Any

from imprint.messages import Bilingual
from imprint.serve.generation.job import ModelInfo
from imprint.serve.store.principal import Principal
from imprint.serve.web.errors import ApiError
from imprint.serve.web.services import Services


def usable_models(services: Services, principal: Principal | None) -> list[ModelInfo]:
    """The models that somebody may use, `base` first."""
    return [model for model in services.backend.models() if principal is None or principal.may_use(model.id)]


def find_model(services: Services, principal: Principal | None, name: str) -> ModelInfo:
    """The model of this id. Raises ApiError for none, and for one that this account may not use, as if there were none."""
    models = usable_models(services, principal)
    found = next((model for model in models if model.id == name), None)
    if found is None:
        names = ", ".join(model.id for model in models)
        raise ApiError(
            "model_not_found",
            Bilingual(f"There is no such model that you may use. Yours: {names}.", f"没有这个模型，或无权使用。可用：{names}。"),
            param="model",
        )
    return found


def describe_model(model: ModelInfo) -> dict[str, Any]:
    """A model as OpenAI and vLLM describe one, with its licence."""
    return {
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": "imprint",
        "root": model.base_name,
        "parent": model.parent,
        "max_model_len": model.max_length,
        "supports_tools": model.supports_tools,
        "licence": model.licence,
        "note": model.note.line if model.note else None,
    }
