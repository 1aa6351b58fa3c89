FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=bind,source=.,target=/src,rw go mod download
COPY --link --exclude=*.md --exclude=.git . .
RUN --network=none --mount=type=secret,id=token,required=true,target=/run/token go build -o /out/app ./cmd/app
FROM scratch
COPY --from=build --chown=65534:65534 --chmod=0755 /out/app /app
COPY --from=0 ["/etc/ssl/certs/ca certificates.crt", "/etc/ssl/certs/"]
COPY --parents a/b c/d /dst/
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://example.org/x.tar.gz /
ADD --keep-git-dir=true --unpack=false archive.tar /tmp/
USER 65534
ENTRYPOINT ["/app"]
