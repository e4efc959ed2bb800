"""Builds the image of the Dockerfile's stage `cpu` around programs that are
built already, on a base from Debian's archive: no registry, no daemon and no
second compilation. Needs root, buildah and mmdebstrap."""

import contextlib
import json
import os
import pathlib
import subprocess
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

    @contextlib.contextmanager
    def mounted(self, image):
        """The root directory of a container of `image`."""
        container = self("from", "--pull-never", image).splitlines()[-1]
        try:
            yield pathlib.Path(self("mount", container))
        finally:
            self("rm", container)
