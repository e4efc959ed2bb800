#!/usr/bin/env python3
"""Builds the image of the Dockerfile's stage `cpu` around programs that are
built already, on a base from Debian's archive: no registry, no daemon and no
second compilation. Leaves what a runtime would see in BUILD_FOLDER/image: the
files in root/, the settings in configuration.json. Needs root (else it ends
with 77, which ctest takes for skipped), buildah and mmdebstrap.

Usage: image_build.py BUILD_FOLDER
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME")
                     or pathlib.Path.home() / ".cache") / "sparseserve"
BASE_LIFE_S = 7 * 24 * 3600


def base_archive():
    """A minimal Debian 12 with apt, kept for a week."""
    archive = CACHE / "debian-12-base.tar"
    if (archive.exists()
            and time.time() - archive.stat().st_mtime < BASE_LIFE_S):
        return archive
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = CACHE / f"debian-12-base.{os.getpid()}.tar"
    try:
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=apt", "--mode=root",
             "--dpkgopt=path-exclude=/usr/share/man/*",
             "--dpkgopt=path-exclude=/usr/share/locale/*",
             "bookworm", str(unfinished)],
            check=True, stdin=subprocess.DEVNULL)
        unfinished.rename(archive)
    finally:
        unfinished.unlink(missing_ok=True)
    return archive


class Buildah:
    """buildah with a storage of its own below `folder`."""

    def __init__(self, folder):
        self.options = ["--root", str(folder / "storage"),
                        "--runroot", str(folder / "run"),
                        "--storage-driver", "vfs"]
        self.environment = {**os.environ, "BUILDAH_ISOLATION": "chroot",
                            "TMPDIR": str(folder)}

    def __call__(self, *arguments):
        result = subprocess.run(
            ["buildah", *self.options, *map(str, arguments)],
            env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if result.returncode != 0:
            raise AssertionError(
                f"buildah {' '.join(map(str, arguments))}:\n{result.stdout}")
        return result.stdout.strip()

    def import_base(self, archive):
        """Tags `archive` as an image and returns its name."""
        container = self("from", "scratch").splitlines()[-1]
        self("add", container, archive, "/")
        self("commit", "--rm", container, "localhost/debian:12")
        return "localhost/debian:12"

    def build(self, base, install_folder, **arguments):
        """Returns the name of the image. `install_folder` is what
        `cmake --install` wrote with DESTDIR."""
        options = [f"--build-arg={name}={value}" for name, value
                   in {"BASE": base, **arguments}.items()]
        self("bud", "--pull-never", "--target=cpu", *options,
             f"--build-context=build={install_folder}",
             "--tag=localhost/sparseserve", ROOT)
        return "localhost/sparseserve"

    def configuration(self, image):
        """What runtimes read: User, Entrypoint, Labels ..."""
        found = json.loads(self("inspect", "--type=image", image))
        return found["OCIv1"]["config"]

    def copy_files(self, image, target):
        """Writes the root directory of `image` to `target`."""
        container = self("from", "--pull-never", image).splitlines()[-1]
        source = self("mount", container)
        subprocess.run(["cp", "--archive", source, str(target)], check=True)
        self("rm", container)


def main():
    if os.geteuid() != 0:
        print("skipped: needs root to build what others own")
        sys.exit(77)
    build = pathlib.Path(sys.argv[1]).resolve()
    result = build / "image"
    shutil.rmtree(result, ignore_errors=True)
    # Below the build folder: /tmp may be small, and storage is not.
    with tempfile.TemporaryDirectory(prefix="image.", dir=build) as folder:
        folder = pathlib.Path(folder)
        installed = folder / "build"
        subprocess.run(
            ["cmake", "--install", build, "--prefix", "/usr/local", "--strip"],
            env={**os.environ, "DESTDIR": str(installed / "install")},
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        buildah = Buildah(folder)
        image = buildah.build(buildah.import_base(base_archive()), installed,
                              VERSION="1.2.3", REVISION="abc")
        result.mkdir()
        buildah.copy_files(image, result / "root")
        (result / "configuration.json").write_text(
            json.dumps(buildah.configuration(image)))


if __name__ == "__main__":
    main()
