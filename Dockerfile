# Images of the server with the client: `cpu`, which is also the default, and
# `cuda`. The model is mounted, not baked in:
#
#   docker build -t sparseserve .
#   docker build -t sparseserve:cuda --target cuda .
#   docker run --rm --read-only -p 9000:9000 -p 9090:9090 \
#     -v "$(dirname "$(deploy/fetch-model.sh | tail -n 1)")":/models:ro \
#     sparseserve
#
# What is built already needs no compiling: a build context named `build` (or
# `cuda-build`) that holds what `cmake --install` left takes that stage's place.

# Pin it in production: --build-arg BASE=debian:12@sha256:...
ARG BASE=docker.io/library/debian:12

FROM ${BASE} AS build
WORKDIR /source
COPY deploy/install-dependencies.sh deploy/
RUN deploy/install-dependencies.sh && rm -rf /var/lib/apt/lists/*
COPY . .
ARG REVISION=unknown
RUN cmake --preset release -DSPARSESERVE_BUILD_TESTS=OFF \
      -DSPARSESERVE_REVISION="$REVISION" && \
    cmake --build build/release && \
    DESTDIR=/install cmake --install build/release --prefix /usr/local --strip

# A clean system with the libraries that the programs load, from which the files
# of an image are taken.
FROM ${BASE} AS run-time
# What the two programs link against; tests/deploy/image_test.py compares.
RUN apt-get update && \
    DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends \
      libgrpc++1.51 libprotobuf32 libabsl20220623 \
      libprometheus-cpp-core1.0 zlib1g \
      libdnnl2 libhwy1 libpcre2-8-0 libutf8proc2 && \
    rm -rf /var/lib/apt/lists/*
COPY deploy/image/collect-files.sh LICENSE /

FROM run-time AS cpu-files
COPY --from=build /install/usr/local/bin/sparseserve-server \
     /install/usr/local/bin/sparseserve /usr/local/bin/
RUN /collect-files.sh /image /usr/local/bin/sparseserve-server \
      /usr/local/bin/sparseserve

FROM scratch AS cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sparseserve" \
      org.opencontainers.image.description="gRPC server for transformers with sparse attention, on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/debian:12"
COPY --from=cpu-files /image /
USER 65532:65532
EXPOSE 9000 9003 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/sparseserve-server"]
# In a container the network decides who reaches the port: see SECURITY.md.
CMD ["--model=/models/SmolLM2-135M-Instruct.Q4_1.gguf", \
     "--listen=0.0.0.0:9000", "--insecure", "--metrics_listen=0.0.0.0:9090"]

FROM build AS cuda-build
RUN cmake --preset release \
      -DCMAKE_CUDA_COMPILER="$(deploy/install-cuda-compiler.sh /cuda | tail -n 1)" && \
    cmake --build build/release && \
    DESTDIR=/install cmake --install build/release --prefix /usr/local --strip

# cuBLASLt, which the server loads where there is a GPU; the driver's own
# libraries come from the node.
FROM ${BASE} AS cublas
RUN apt-get update && \
    DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends ca-certificates python3-pip && \
    rm -rf /var/lib/apt/lists/*
COPY deploy/image/fetch-cublas.sh deploy/install-cuda-compiler.sh /
RUN /fetch-cublas.sh /cublas

FROM run-time AS cuda-files
COPY --from=cuda-build /install/usr/local/bin/sparseserve-server \
     /install/usr/local/bin/sparseserve /usr/local/bin/
COPY --from=cublas /cublas /
# What cuBLASLt and the driver load is needed too; cuBLASLt itself is a layer of
# its own, which a new version of the server leaves as it is.
RUN /collect-files.sh /image /usr/local/bin/sparseserve-server \
      /usr/local/bin/sparseserve /usr/local/cuda/lib/libcublasLt.so.* && \
    rm -r /image/usr/local/cuda

FROM scratch AS cuda
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="sparseserve" \
      org.opencontainers.image.description="gRPC server for transformers with sparse attention, on NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-NVIDIA-CUDA-EULA" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/debian:12"
COPY --from=cublas /cublas /
COPY --from=cuda-files /image /
# What NVIDIA's container runtime looks for.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/usr/local/cuda/lib
USER 65532:65532
EXPOSE 9000 9003 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/sparseserve-server"]
CMD ["--model=/models/SmolLM2-135M-Instruct.Q4_1.gguf", \
     "--listen=0.0.0.0:9000", "--insecure", "--metrics_listen=0.0.0.0:9090"]

FROM cpu
