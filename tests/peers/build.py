"""llama.cpp's own programs, found or built from the very source the library we call comes from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

PROGRAMS = ("llama-server", "llama-speculative-simple")
LIBRARY = "llama-cpp-python"
SOURCE = "vendor/llama.cpp"
# The web page and TLS are not measured; the first would be downloaded at configure time.
SWITCHED_OFF = ("BUILD_TESTS", "BUILD_UI", "USE_PREBUILT_UI", "OPENSSL")


def find_programs(build: Path | None, sdist: Path | None) -> list[Path]:
    """Return the PROGRAMS in `build` or on PATH, else build them there (minutes).

    build: a folder with, or for, the programs; None is one in the user's cache.
    sdist: the .tar.gz of llama-cpp-python; None downloads the installed version's with pip.
    More CMake options, such as those for a GPU, are taken from CMAKE_ARGS, as pip does.
    """
    folder = build or Path("~/.cache/metasd-local-peers").expanduser() / version(LIBRARY)
    on_path = [Path(path) for name in PROGRAMS if (path := shutil.which(name))]
    paths = _look_in(folder) or ([] if build else on_path)
    if len(paths) == len(PROGRAMS):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    if sdist is None:
        fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", LIBRARY]
        subprocess.run([*fetch, f"{LIBRARY}=={version(LIBRARY)}", "-d", str(folder)], check=True)
        sdist = next(folder.glob("llama_cpp_python-*.tar.gz"))
    with tarfile.open(sdist) as archive:
        wanted = [entry for entry in archive if f"/{SOURCE}/" in f"{entry.name}/"]
        archive.extractall(folder, wanted, filter="data")
    source, made = str(next(folder.glob(f"*/{SOURCE}"))), str(folder / "build")
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON"]
    options += [f"-DLLAMA_{name}=OFF" for name in SWITCHED_OFF]
    options += os.environ.get("CMAKE_ARGS", "").split()
    subprocess.run(["cmake", "-S", source, "-B", made, *options], check=True)
    jobs = str(os.cpu_count() or 1)
    subprocess.run(["cmake", "--build", made, "-j", jobs, "--target", *PROGRAMS], check=True)
    return _look_in(folder)


def _look_in(folder: Path) -> list[Path]:
    for place in (folder, folder / "bin", folder / "build/bin"):
        paths = [place / name for name in PROGRAMS]
        if all(path.is_file() for path in paths):
            return paths
    return []
