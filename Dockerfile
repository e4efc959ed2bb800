# The CPU server and the client, built and run on the same Debian release. The
# model is mounted, not baked in:
#
#   docker build -t sparseserve .
#   docker run --rm --read-only -p 9000:9000 -p 9090:9090 \
#     -v "$(dirname "$(deploy/fetch-model.sh | tail -n 1)")":/models:ro \
#     sparseserve

FROM debian:12 AS build
WORKDIR /source
COPY deploy/install-dependencies.sh deploy/
RUN deploy/install-dependencies.sh && rm -rf /var/lib/apt/lists/*
COPY . .
ARG REVISION=unknown
RUN cmake --preset release -DSPARSESERVE_BUILD_TESTS=OFF \
      -DSPARSESERVE_REVISION="$REVISION" && \
    cmake --build build/release && \
    DESTDIR=/image cmake --install build/release --prefix /usr/local --strip

FROM debian:12-slim
# What the two programs link against; tests/deploy/image_test.py compares.
RUN apt-get update && \
    apt-get install --yes --no-install-recommends \
      libgrpc++1.51 libprotobuf32 libabsl20220623 \
      libprometheus-cpp-core1.0 zlib1g \
      libdnnl2 libhwy1 libpcre2-8-0 libutf8proc2 && \
    rm -rf /var/lib/apt/lists/*
COPY --from=build /image/usr/local/bin/ /usr/local/bin/
USER 65532:65532
EXPOSE 9000 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["sparseserve", "health", "--server=127.0.0.1:9000"]
# In a container the network decides who reaches the port: see SECURITY.md.
ENTRYPOINT ["sparseserve-server", "--listen=0.0.0.0:9000", "--insecure", \
            "--metrics_listen=0.0.0.0:9090"]
CMD ["--model=/models/SmolLM2-135M-Instruct.Q4_1.gguf"]
