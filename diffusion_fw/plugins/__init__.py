"""The package under whose name plugin files are imported; its folders are those of ``DIFFUSION_FW_PLUGINS``."""

from diffusion_fw.registry.discovery import plugin_folders

__path__ = plugin_folders()
