# One image for both programs. The operator runs as the user that is set here; the agent as root with NET_ADMIN and NET_RAW, as its pod asks for.
#
#     docker build -t npctl:0.1.0 .
#
# Where there is neither a container engine nor a registry, `./dev image` builds this very file on a BASE made from Debian's packages.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS system
# Both iptables backends, and modprobe for the legacy one. The user gets a name for `ps` and `ls` only: the number is what counts.
RUN apt-get update -q \
    && apt-get install -y -q --no-install-recommends python3 iptables ipset kmod \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/log/apt /var/log/*.log \
    && echo 'npctl:x:65532:65532:npctl operator:/:/usr/sbin/nologin' >>/etc/passwd \
    && echo 'npctl:x:65532:' >>/etc/group

# The locked packages: /build has what builds, /opt/npctl gets only what runs, not even pip.
FROM system AS packages
# For a package index of one's own; PIP_CERT is a path that the build mounts.
ARG PIP_INDEX_URL
ARG PIP_CERT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update -q && apt-get install -y -q --no-install-recommends ca-certificates gcc libc6-dev python3-dev python3-venv
COPY requirements-build.lock requirements-runtime.lock /
RUN python3 -m venv /build \
    && /build/bin/pip install --require-hashes -r requirements-build.lock \
    && /build/bin/pip wheel --no-deps --no-build-isolation --require-hashes -r requirements-runtime.lock -w /wheels \
    && python3 -m venv --without-pip /opt/npctl \
    && /build/bin/pip --python /opt/npctl/bin/python install --no-index --no-deps /wheels/*.whl

# npctl itself, in a layer of its own: a new version brings a small one only.
FROM packages AS own
WORKDIR /source
COPY . .
RUN /build/bin/pip wheel --no-deps --no-build-isolation -w /wheel . \
    && /build/bin/pip --python /opt/npctl/bin/python install --no-index --no-deps --prefix /own /wheel/*.whl

FROM system
COPY --from=packages /opt/npctl /opt/npctl
COPY --from=own /own /opt/npctl
ENV PATH=/opt/npctl/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="npctl" \
      org.opencontainers.image.description="Kubernetes NetworkPolicy on any network: operator and agent" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
USER 65532:65532
ENTRYPOINT ["npctl"]
