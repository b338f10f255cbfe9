# The image that scripts/image packs, by a container engine: the build fills one folder, and that folder is the image.
# `docker build -t verdigris:TAG .`; without an engine, `make image` gives the same content.
FROM rust:1.95.0-bookworm AS build
WORKDIR /verdigris
COPY . .
RUN make model && scripts/image --root /image

FROM scratch
COPY --from=build /image /
COPY --from=build --chown=65532:65532 /image/var/lib/verdigris /var/lib/verdigris
ENV VERDIGRIS_CACHE=/usr/share/verdigris \
    VERDIGRIS_DATA=/var/lib/verdigris \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
LABEL org.opencontainers.image.title=verdigris \
      org.opencontainers.image.licenses=Apache-2.0
WORKDIR /var/lib/verdigris
USER 65532:65532
EXPOSE 7700 7701 7702
ENTRYPOINT ["/verdigris"]
