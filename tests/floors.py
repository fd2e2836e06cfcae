"""
Print the oldest version of every runtime dependency as pip constraints, from pyproject.toml.
"""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(__file__).parent.parent.joinpath("pyproject.toml").read_text("utf-8"))["project"]
for dependency in project["dependencies"]:
    sys.stdout.write(re.sub(r">=([^,]+).*", r"==\1", dependency) + "\n")
