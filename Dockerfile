# One service on one of two torches, with the versions and hashes of locks/:
#   docker build -t adasd-serve:0.1.0 .                               # for CPUs
#   docker build --build-arg TORCH=cuda -t adasd-serve-cuda:0.1.0 .   # for NVIDIA GPUs; the driver comes from the node
#   docker run --rm -p 8000:8000 -p 9000:9000 --shm-size 1g adasd-serve:0.1.0
# `make image-check` runs the steps for CPUs in a bare virtual environment.
# `make pin-image` writes the base image's digest behind its name.
ARG PYTHON=python:3.11.14-slim-bookworm
ARG TORCH=cpu

# The kernels, for every processor that the image may run on. The compiler stays here.
FROM ${PYTHON} AS compiler
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
FROM compiler AS kernels
WORKDIR /kernels
COPY adasd/engine/forward/native native
RUN python native/library.py

# The operating system's share: what KubeRay's own probes call, a user without rights.
FROM ${PYTHON} AS system-cpu
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --user-group --create-home --shell /bin/bash adasd

# Triton, torch's compiler for GPUs, builds in C what launches its kernels, at run time.
FROM system-cpu AS system-cuda
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

FROM system-${TORCH} AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY locks/service.txt locks/service.txt
COPY locks/torch.txt locks/torch.txt

FROM packages AS torch-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --constraint constraints.txt --index-url ${TORCH_INDEX} torch

# torch from PyPI brings the CUDA libraries that it was built with.
FROM packages AS torch-cuda
RUN pip install --require-hashes --requirement locks/torch.txt

FROM torch-${TORCH} AS service
RUN pip install --require-hashes --requirement locks/service.txt
COPY adasd adasd
COPY --from=kernels /kernels/native/built adasd/engine/forward/native/built
COPY services services
COPY protos protos
COPY cluster cluster
COPY k8s/base k8s/base
COPY examples/cards.yaml examples/cards.yaml
COPY models/demo models/demo
COPY models/smollm2-draft models/smollm2-draft
RUN pip install --no-deps --no-build-isolation --editable .
USER 1000:1000
EXPOSE 8000 9000
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=6 CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["adasd", "serve", "--host", "0.0.0.0"]
