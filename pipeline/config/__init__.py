"""Configs: YAML on disk, frozen pydantic models here."""

from pipeline.config.run import RunConfig

__all__ = ["RunConfig"]
