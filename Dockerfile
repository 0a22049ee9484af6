# Images of the conform BIDS-Apps, one target each: glm, psn, align, encode; and `all`, which takes the app's name as its first word.
#
#   docker build --target psn -t conform/psn .
#   docker run --rm -v DATA:/data:ro -v OUT:/out conform/psn /data /out participant
#
# Arguments: BASE (a Debian whose python3 is 3.11 or newer), TORCH (cpu, or cuda for NVIDIA GPUs), VERSION and REVISION (labels).
# pip reads its configuration from the base image and from PIP_* arguments. A wheel of torch without CUDA has to be what pip finds
# for TORCH=cpu (PyTorch's own index of CPU wheels has it: --build-arg PIP_EXTRA_INDEX_URL=...), and one with CUDA for TORCH=cuda
# (which needs no other index); the build stops where it is not.

ARG BASE=debian:bookworm-slim

# ---- everything that is installed, in one virtual environment -------------------------------------------------------------------
FROM ${BASE} AS builder
ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/conform
ARG TORCH=cpu
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
# Dependencies alone, so that a change of the code does not install them again.
COPY pyproject.toml README.md LICENSE ./
COPY ci/constraints.txt ci/constraints.txt
COPY conform_bids/__init__.py conform_bids/__init__.py
RUN mkdir -p bids_app && touch bids_app/__init__.py \
    && /opt/conform/bin/pip install -q -c ci/constraints.txt . \
    && /opt/conform/bin/pip uninstall -q -y conform \
    && /opt/conform/bin/python -c "import sys, torch; cuda = torch.version.cuda is not None; \
       sys.exit(0 if cuda == (sys.argv[1] == 'cuda') else f'TORCH={sys.argv[1]}, but pip found torch {torch.__version__}')" "${TORCH}"
COPY conform_bids conform_bids
COPY bids_app bids_app
# What runs nothing: pip itself, tests and headers of the dependencies. Bytecode is compiled here, as the image is read-only later.
RUN /opt/conform/bin/pip install -q --no-deps -c ci/constraints.txt . \
    && /opt/conform/bin/pip uninstall -q -y pip setuptools wheel 2>/dev/null; \
    site=$(/opt/conform/bin/python -c "import site; print(site.getsitepackages()[0])") \
    && rm -rf "$site"/torch/include "$site"/torch/test "$site"/pyarrow/include "$site"/pyarrow/tests "$site"/pandas/tests \
    && rm -rf "$site"/sklearn/*/tests "$site"/scipy/*/tests "$site"/numpy/*/tests "$site"/nibabel/tests "$site"/nilearn/*/tests \
    && find "$site" -name "*.a" -delete \
    && find "$site" -name __pycache__ -prune -exec rm -rf {} + \
    && /opt/conform/bin/python -m compileall -q -j 0 /opt/conform/lib >/dev/null || true

# ---- what every image shares ----------------------------------------------------------------------------------------------------
FROM ${BASE} AS runtime
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends python3 libgomp1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /usr/share/doc/* /usr/share/man/*
COPY --from=builder /opt/conform /opt/conform
# Any user, a read-only root and no network: all that is written goes to the output folder, the work folder and /tmp.
ENV PATH=/opt/conform/bin:$PATH \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/.cache \
    MPLCONFIGDIR=/tmp/.cache/matplotlib \
    DENO_DIR=/tmp/.cache/deno \
    HF_HOME=/tmp/.cache/huggingface \
    TORCH_HOME=/tmp/.cache/torch \
    TEMPLATEFLOW_HOME=/opt/templateflow \
    TEMPLATEFLOW_AUTOUPDATE=off \
    NO_ET=1 NIPYPE_NO_ET=1 \
    LC_ALL=C.UTF-8 \
    MPLBACKEND=Agg \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONNOUSERSITE=1
RUN mkdir -p /opt/templateflow /data /out /work && chmod 777 /out /work \
    && python -c "import templateflow.api" && rm -rf /tmp/.cache /tmp/.config
WORKDIR /tmp
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The conform developers" \
      org.opencontainers.image.documentation="docs/containers.md"

# ---- the apps: each image is an entry point over the same layers ----------------------------------------------------------------
FROM runtime AS glm
LABEL org.opencontainers.image.title="conform-glm" \
      org.opencontainers.image.description="Single-trial responses from fMRIPrep outputs"
RUN conform-glm --version
ENTRYPOINT ["conform-glm"]

FROM runtime AS psn
LABEL org.opencontainers.image.title="conform-psn" \
      org.opencontainers.image.description="Signal and noise of single-trial responses, partitioned"
RUN conform-psn --version
ENTRYPOINT ["conform-psn"]

FROM runtime AS align
LABEL org.opencontainers.image.title="conform-align" \
      org.opencontainers.image.description="Functional alignment, and the aggregated dataset"
RUN conform-align --version
ENTRYPOINT ["conform-align"]

FROM runtime AS encode
LABEL org.opencontainers.image.title="conform-encode" \
      org.opencontainers.image.description="Encoding models, and a population model that learns a new person in context"
RUN conform-encode --version
ENTRYPOINT ["conform-encode"]

FROM runtime AS all
LABEL org.opencontainers.image.title="conform" \
      org.opencontainers.image.description="All conform apps; the first word of the command is the app's name"
COPY ci/entrypoint.sh /usr/local/bin/conform
RUN conform glm --version
ENTRYPOINT ["conform"]
