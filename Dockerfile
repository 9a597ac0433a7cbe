# The environment of `make install`, for hosts that run containers: docs/images.md.
#
#   docker build --tag distillery .
#
# It holds no code and no data. The workspace, a clone with its data, is a volume at /workspace, so
# an image is made again when requirements.txt changes, and not for every commit.
FROM python:3.11-slim-bookworm

# Git and make: DVC asks the one, people type the other. Debian keeps one version of each a release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 distillery \
    && git config --system --add safe.directory /workspace \
    && install --directory --owner=distillery --group=distillery /workspace

COPY requirements.txt /opt/distillery/
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes --requirement /opt/distillery/requirements.txt

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/workspace \
    DISTILLERY_ROOT=/workspace
USER 1000
WORKDIR /workspace

# A worker of the work pool `distillery`, whose deployment prefect.yaml describes. It answers at 8080.
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=5)"]
CMD ["prefect", "worker", "start", "--pool", "distillery", "--type", "process", "--with-healthcheck"]
