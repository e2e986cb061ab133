"""What needs to know where this folder is; the rest is in the JSON file beside this one."""

from pathlib import Path

c = get_config()

# tabs: see custom/custom.css
c.LabApp.custom_css = True
c.ServerApp.tornado_settings = {"static_custom_path": [str(Path(__file__).resolve().parent / "custom")]}
