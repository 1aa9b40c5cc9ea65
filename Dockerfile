# syntax=docker/dockerfile:1

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep downloads and object files from one build to the next; what the image needs is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --workspace --bins \
    && packaging/rootfs target/release /rootfs

# No distribution: `packaging/rootfs` says what is in it. From here on `packaging/image` takes the same lines, without compiling.
FROM scratch
COPY --from=build /rootfs/ /

ENV PATH=/usr/local/bin
# Loopback, the default, could not be reached from outside the container.
ENV CONVGROUP_HTTP__LISTEN=0.0.0.0:9464
EXPOSE 9464
USER 65532:65532
STOPSIGNAL SIGTERM
# There is no shell and no curl: the program asks itself. Unhealthy while suspended or disconnected; it comes back alone.
HEALTHCHECK --interval=5s --timeout=5s --start-period=15s --retries=3 \
    CMD ["/usr/local/bin/convgroup-deleter", "check", "--ready", "http://127.0.0.1:9464/readyz"]
# No shell in between: the daemon is PID 1 and gets the signal itself. The defaults are embedded, so no file is copied in.
ENTRYPOINT ["/usr/local/bin/convgroup-deleter"]
CMD ["run"]

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="convgroup-deleter" \
      org.opencontainers.image.description="Turns RabbitMQ events \"delete this user's conversation group\" into calls of the Tencent Cloud Chat server API, and never loses one" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
