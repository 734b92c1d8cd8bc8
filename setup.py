"""What pyproject.toml can't say: the wheel carries notebooks, data and glossary, so that `sparsity-lab lab` has them on
any machine. In the repository they stay where they are, and an editable installation reads them there."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = [  # never notebooks/assignments, which has solutions and hidden tests
    "notebooks/[0-9]*.ipynb",
    "notebooks/profiles.toml",
    "notebooks/app/*.*",
    "notebooks/app/voila/**/*.*",
    "data/*.*",
    "data/*/*.json",
    "data/*/*.toml",
    "data/*/*.fit",
    "docs/glossary.md",
    "docs/glossary.toml",
]


def shipped() -> list[str]:
    """Returns the paths of the files to carry."""
    return sorted(path.as_posix() for pattern in SHIPPED for path in Path().glob(pattern) if path.is_file())


class BuildSuite(build_py):
    """Builds the package, with the files to carry in its folder `shipped`."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)  # or the wheel has whatever an earlier build has left
        super().run()
        if not self.editable_mode:
            for name in shipped():
                target = Path(self.build_lib, "sparsity_lab", "shipped", name)
                self.mkpath(str(target.parent))
                self.copy_file(name, str(target))

    def get_source_files(self) -> list[str]:
        """Returns what a source distribution needs to build the same wheel."""
        return [*super().get_source_files(), *shipped()]


setup(cmdclass={"build_py": BuildSuite})
