"""Build backend of the top directory: setuptools, run in python/.

pip calls a backend in the directory of the pyproject.toml that names it; the
package's own is this file's directory.
"""

import os

from setuptools import build_meta

os.chdir(os.path.dirname(os.path.abspath(__file__)))

build_wheel = build_meta.build_wheel
build_editable = build_meta.build_editable
get_requires_for_build_wheel = build_meta.get_requires_for_build_wheel
get_requires_for_build_editable = build_meta.get_requires_for_build_editable
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable


def build_sdist(sdist_directory, config_settings=None):
    raise RuntimeError(
        "the source release is made by `make dist`: it carries "
        "the C library, and pip installs from it"
    )
