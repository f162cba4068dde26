"""Base of every section of a config."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section: frozen, of finite numbers; a key that it does not know is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
