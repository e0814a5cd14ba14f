"""The facts of backbones are asked for by every command, so they must cost nothing."""

import subprocess
import sys


def test_facts_load_no_compiler():
    code = """
import sys
from actionfusion.models import FusionNetworkSettings
FusionNetworkSettings.faithful()
FusionNetworkSettings.tiny(5, backbone="efficientnet_lite0")
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
