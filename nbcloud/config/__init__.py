"""Settings and profiles: ``nbcloud.toml`` of the project, then of the user, and ``NBCLOUD_*`` over both."""

from nbcloud.config.private import private_dir
from nbcloud.config.quantities import parse_bytes, parse_seconds
from nbcloud.config.settings import Settings, settings

__all__ = ["Settings", "parse_bytes", "parse_seconds", "private_dir", "settings"]
