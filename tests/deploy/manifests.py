"""The overlays of deploy/kustomize as objects, and what to look at them with.
"""

import functools
import hashlib
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
KUSTOMIZE = ROOT / "deploy/kustomize"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME")
                     or pathlib.Path.home() / ".cache") / "sparseserve"
REQUIREMENTS = pathlib.Path(__file__).with_name("requirements.txt")


def use_packages():
    """Makes the packages of requirements.txt importable, in a folder of their
    own that is filled once."""
    key = hashlib.sha256(REQUIREMENTS.read_bytes()
                         + sys.version.encode()).hexdigest()[:16]
    folder = CACHE / f"manifest-packages-{key}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = CACHE / f"{folder.name}.{os.getpid()}"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet",
             "--disable-pip-version-check", "--root-user-action=ignore",
             "--only-binary=:all:", "--target", str(unfinished),
             "--requirement", str(REQUIREMENTS)],
            check=True, stdin=subprocess.DEVNULL)
        unfinished.rename(folder)
    sys.path.insert(0, str(folder))


use_packages()

import yaml  # noqa: E402


def folders():
    """Each folder that is meant to be applied, by its name below
    deploy/kustomize."""
    parts = [*(KUSTOMIZE / "overlays").iterdir(), KUSTOMIZE / "model-store",
             KUSTOMIZE / "kserve"]
    return sorted(str(part.relative_to(KUSTOMIZE)) for part in parts)


@functools.lru_cache(maxsize=None)
def kubectl():
    return subprocess.run(
        [ROOT / "deploy/install-kubectl.sh"], check=True, text=True,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL).stdout.splitlines()[-1]


@functools.lru_cache(maxsize=None)
def render(folder):
    """The objects that `kubectl apply -k` would send. `folder` is relative to
    deploy/kustomize or absolute."""
    result = subprocess.run(
        [kubectl(), "kustomize", str(KUSTOMIZE / folder)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        raise AssertionError(f"{folder}:\n{result.stderr}")
    if result.stderr:
        raise AssertionError(f"{folder} renders with warnings:\n"
                             f"{result.stderr}")
    # Ten times as fast where the package brings it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return list(yaml.load_all(result.stdout, Loader=loader))


def of_kind(objects, *kinds):
    return [one for one in objects if one["kind"] in kinds]


def pod_specs(objects):
    """(name, specification) of each pod that the objects make, KServe's
    runtimes included."""
    found = []
    for one in objects:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            found.append((name, one["spec"]))
        elif one["kind"] == "Deployment":
            found.append((name, one["spec"]["template"]["spec"]))
        elif one["kind"] == "ServingRuntime":
            found.append((name, one["spec"]))
    return found


def servers(objects):
    """Containers that run sparseserve-server."""
    return [container for _, spec in pod_specs(objects)
            for container in spec["containers"]
            if container["image"].split(":")[0].split("/")[-1]
            == "sparseserve"]


def flags(container):
    """Values of the server's flags by name, the last one of each; "" for
    flags without a value."""
    return {name.removeprefix("--"): value for name, _, value in
            (argument.partition("=") for argument in container["args"])}


def seconds(text):
    """Of a duration as flags and cert-manager write it, such as 300s."""
    unit = {"s": 1, "m": 60, "h": 3600}[text[-1]]
    return float(text[:-1]) * unit


def quantity(text):
    """Of memory or cores, such as 4Gi, 1GiB or 100m."""
    text = str(text).removesuffix("B")
    for suffix, factor in (("Ki", 2**10), ("Mi", 2**20), ("Gi", 2**30),
                           ("m", 1e-3)):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)


APPLIED = folders()
SERVING = [folder for folder in APPLIED if folder != "model-store"]
OVERLAYS = [folder for folder in APPLIED if folder.startswith("overlays/")]


def deployment(folder):
    found, = of_kind(render(folder), "Deployment")
    return found


def server(folder):
    found, = servers(render(folder))
    return found


def labels_of_pods(folder):
    return deployment(folder)["spec"]["template"]["metadata"]["labels"]


def in_each(chosen):
    """Runs a test once for each of the folders."""
    def decorate(test):
        @functools.wraps(test)
        def run(self):
            for folder in chosen:
                with self.subTest(folder=folder):
                    test(self, folder)
        return run
    return decorate
