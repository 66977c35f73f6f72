"""What importing smalti.data imports."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_importing_the_data_package_imports_no_slow_or_optional_package():
    names = "('av', 'lightning', 'skimage', 'sklearn', 'skvideo', 'webdataset')"
    code = f"import sys, smalti.data; print([name for name in {names} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
