"""Print the lowest versions that pyproject.toml allows, as constraints for pip."""

import re
import tomllib
from itertools import chain
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for line in chain(project["dependencies"], *extras.values()):
    if found := re.fullmatch(r"([\w-]+)>=([\d.]+)", line):
        print(f"{found[1]}=={found[2]}")
