"""Builds the kernels of prl/csrc where a machine can: PRL_BUILD=auto|none|cpp|cuda.

auto (the default) builds what is possible and says what is not, and why; none builds nothing; cpp and cuda build that
kernel (cuda: both) or fail. torch is looked for in the environment that prl is installed into, so it has to be there
first; nothing is downloaded to build. What was built is written to prl/ops/built.json, which `prl env` shows.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from hashlib import sha256
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

SOURCES = Path(__file__).parent / "prl" / "csrc"
ABI = "0x020a000000000000"  # the stable ABI of torch 2.10: what is built runs with that version and later ones
CHOICES = ("auto", "none", "cpp", "cuda")
CHOICE = os.environ.get("PRL_BUILD", "auto")


def find_torch() -> Path:
    """Find the folder of the torch that prl is installed beside.

    pip builds in an isolated environment, without torch, but with the interpreter of the environment that it installs
    into: that one's folder of packages is looked at too.
    """
    folders = [Path(entry) / "torch" for entry in [*sys.path, *sysconfig.get_paths().values()]]
    for folder in folders:
        if (folder / "version.py").is_file():
            version = re.search(r"__version__ = '(\d+)\.(\d+)", (folder / "version.py").read_text(encoding="utf-8"))
            if version and (int(version[1]), int(version[2])) < (2, 10):
                raise LookupError(f"torch {version[1]}.{version[2]} is older than 2.10")
            return folder
    raise LookupError("torch was not installed yet when prl was: install torch first, then prl again")


def find_cxx() -> str:
    """Find the C++ compiler: CXX, c++, g++ or clang++."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name.split()[0]):
            return name
    raise LookupError("no C++ compiler was found (CXX, c++, g++, clang++)")


def find_nvcc() -> str:
    """CUDA's compiler, from CUDA_HOME or the PATH."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else shutil.which("nvcc")
    if nvcc is None:
        raise LookupError(f"nvcc was not found in {f'CUDA_HOME={home}' if home else 'PATH, and CUDA_HOME is not set'}")
    return nvcc


def architectures(nvcc: str) -> list[str]:
    """Build flags for machine code of every architecture from sm_70 on, or for those of TORCH_CUDA_ARCH_LIST.

    Raises:
        LookupError: when there is none.
    """
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if wanted:
        known = [re.sub(r"\D", "", arch.partition("+")[0]) for arch in re.split(r"[;,\s]+", wanted.strip(" ;,"))]
        if not all(known):
            raise LookupError(f"TORCH_CUDA_ARCH_LIST={wanted!r} needs numbers, as in '8.0;9.0'")
    else:
        listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout
        known = [number for number in re.findall(r"compute_(\d+)\b", listed) if int(number) >= 70]
        if not known:
            raise LookupError(f"{nvcc} lists no architecture from sm_70 on: it is broken or too old")
    newest = max(known, key=int)
    codes = [flag for arch in known for flag in ("-gencode", f"arch=compute_{arch},code=sm_{arch}")]
    return [*codes, "-gencode", f"arch=compute_{newest},code=compute_{newest}"]


def compile_command(name: str, output: Path) -> list[str]:
    """How to make the library of a kernel (cpp or cuda).

    Raises:
        LookupError: when a tool is missing, saying which.
    """
    torch = find_torch()
    # Only libtorch is named: it brings libtorch_cpu and, where there is one, libtorch_cuda, when Python loads torch.
    common = [f"-DTORCH_TARGET_VERSION={ABI}", f"-I{torch / 'include'}", "-std=c++20", "-O3", "-shared"]
    link = [f"-L{torch / 'lib'}", "-ltorch", "-ltorch_cpu"]
    if name == "cpp":
        # After CXXFLAGS, since only these make the results equal to the reference's. Packing what one token hands to
        # the next into a vector makes rows that are alone four times slower.
        exact = ["-fno-fast-math", "-ffp-contract=off", "-fno-tree-slp-vectorize"]
        flags = [*os.environ.get("CXXFLAGS", "").split(), *common, *exact, "-fPIC", "-fvisibility=hidden"]
        return [*find_cxx().split(), *flags, str(SOURCES / "ops_cpu.cpp"), "-o", str(output), *link]
    nvcc = find_nvcc()
    flags = ["-DUSE_CUDA", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xlinker", "--no-as-needed", "--threads", "0"]
    sources = [str(SOURCES / "gae_cuda.cu"), str(SOURCES / "ops_cuda.cpp")]
    return [nvcc, *common, *flags, *architectures(nvcc), *sources, "-o", str(output), *link]


def obstacle(name: str) -> str | None:
    """Why a kernel is not built, or None."""
    if CHOICE == "none":
        return "PRL_BUILD=none when prl was installed"
    if CHOICE == "cpp" and name == "cuda":
        return "PRL_BUILD=cpp when prl was installed"
    try:
        if platform.system() != "Linux":
            raise LookupError(f"the kernels are built on Linux only, this is {platform.system()}")
        torch = find_torch()
        find_cxx() if name == "cpp" else architectures(find_nvcc())
        cuda = re.search(r"^cuda.*= (.+)$", (torch / "version.py").read_text(encoding="utf-8"), re.MULTILINE)
        if name == "cuda" and CHOICE == "auto" and cuda:
            return cuda_mismatch(cuda[1].strip("'"), find_nvcc())
    except LookupError as missing:
        if CHOICE in (name, "cuda"):
            raise SystemExit(f"PRL_BUILD={CHOICE}: the {name} kernel cannot be built: {missing}") from None
        return str(missing)
    return None


def cuda_mismatch(cuda: str, nvcc: str) -> str | None:
    """Why an nvcc does not go with torch's CUDA ("None", or a version), or None."""
    if cuda == "None":
        return "torch is a build without CUDA (PRL_BUILD=cuda builds it all the same)"
    told = re.search(r"release (\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout)
    if told and told[1] != cuda.partition(".")[0]:
        return f"nvcc is of CUDA {told[1]}, torch of CUDA {cuda} (PRL_BUILD=cuda builds it all the same)"
    return None


class BuildKernels(build_ext):
    """One compiler call per kernel; plain libraries that torch loads, no Python modules."""

    def run(self) -> None:
        """Build, and write down what was built."""
        super().run()
        folder = Path(self.get_ext_fullpath("prl.ops._cpp")).parent
        folder.mkdir(parents=True, exist_ok=True)
        record = {"sources": source_hash(), "built": BUILT, "not_built": NOT_BUILT}
        (folder / "built.json").write_text(json.dumps(record, indent=2) + "\n")

    def build_extension(self, extension: Extension) -> None:
        """Compile one kernel; in auto mode a failure leaves it out."""
        name = extension.name.rpartition("._")[2]
        output = Path(self.get_ext_fullpath(extension.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        output.unlink(missing_ok=True)  # of an earlier build
        if name in NOT_BUILT:
            return
        command = compile_command(name, output)
        print(f"prl: building the {name} kernel: {' '.join(command)}", file=sys.stderr)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            if CHOICE != "auto":
                raise SystemExit(f"PRL_BUILD={CHOICE}: the {name} kernel does not compile:\n{done.stderr}")
            print(f"prl: the {name} kernel does not compile and is left out:\n{done.stderr}", file=sys.stderr)
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            NOT_BUILT[name] = f"it did not compile when prl was installed: {first}"
            return
        told = subprocess.run([command[0], "--version"], capture_output=True, text=True).stdout.strip().splitlines()
        version = told or [command[0]]
        BUILT[name] = f"built with {version[-1] if name == 'cuda' else version[0]}"

    def get_ext_filename(self, fullname: str) -> str:
        """`_cpp.so`: the library knows nothing of Python, so its name carries no version of it."""
        return str(Path(*fullname.split("."))) + ".so"

    def get_outputs(self) -> list[str]:
        """List the libraries that exist, and the record."""
        listed = [Path(output) for output in super().get_outputs()]
        record = Path(self.get_ext_fullpath("prl.ops._cpp")).parent / "built.json"
        return [str(path) for path in [*listed, record] if path.exists()]


class BuildPackages(build_py):
    """Put configs/ into the package, where an installed prl finds them; a clone keeps them where they are."""

    def run(self) -> None:
        """Copy packages, then the configs."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "prl" / "configs"
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            shutil.copytree(Path(__file__).parent / "configs", target)


def source_hash() -> str:
    """Fingerprint of the sources, as prl.ops.kernels makes it."""
    digest = sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix in (".h", ".cuh", ".cu", ".cpp"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


if CHOICE not in CHOICES:
    raise SystemExit(f"PRL_BUILD={CHOICE!r} is unknown; known: {', '.join(CHOICES)}")
BUILT: dict[str, str] = {}
NOT_BUILT: dict[str, str] = {name: why for name in ("cpp", "cuda") if (why := obstacle(name)) is not None}
for name, why in NOT_BUILT.items():
    print(f"prl: the {name} kernel is not built: {why}", file=sys.stderr)

setup(
    ext_modules=[Extension(f"prl.ops._{name}", sources=[], optional=True) for name in ("cpp", "cuda")],
    cmdclass={"build_ext": BuildKernels, "build_py": BuildPackages},
)
