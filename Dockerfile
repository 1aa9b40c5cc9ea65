# syntax=docker/dockerfile:1

FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep downloads and object files from one build to the next; what the image needs is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --workspace --bins \
    && install -D --target-directory=/out target/release/convgroup-deleter target/release/im-sandbox

FROM debian:bookworm-20251229-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /usr/local/bin/

# Loopback, the default, could not be reached from outside the container.
ENV CONVGROUP_HTTP__LISTEN=0.0.0.0:9464
EXPOSE 9464
USER 65532:65532
STOPSIGNAL SIGTERM
# No shell in between: the daemon is PID 1 and gets the signal itself. The defaults are embedded, so no file is copied in.
ENTRYPOINT ["/usr/local/bin/convgroup-deleter"]
CMD ["run"]

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="convgroup-deleter" \
      org.opencontainers.image.description="Turns RabbitMQ events \"delete this user's conversation group\" into calls of the Tencent Cloud Chat server API, and never loses one" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-20251229-slim"
