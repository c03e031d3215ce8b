# The service in one image. CPU by default; `--build-arg TORCH=cuda` for NVIDIA GPUs. See docker/README.md.
FROM python:3.11-slim-bookworm

ARG TORCH=cpu
ARG EXTRAS=serve,postgres,s3,tracing

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    OMP_WAIT_POLICY=passive \
    WANDB_MODE=disabled

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE CHANGELOG.md ./
COPY ups_server ups_server
COPY models models
RUN case "$TORCH" in \
        cpu) index="--extra-index-url https://download.pytorch.org/whl/cpu" ;; \
        cuda) index="" ;; \
        *) echo "TORCH must be cpu or cuda, got $TORCH" >&2; exit 1 ;; \
    esac \
    && pip install --constraint constraints.txt $index ".[$EXTRAS]"

COPY docker/entrypoint /usr/local/bin/entrypoint
RUN useradd --create-home --home-dir /srv/ups --uid 10001 ups \
    && install -d -o ups -g ups /data \
    && chmod 0755 /usr/local/bin/entrypoint
USER ups
WORKDIR /srv/ups
VOLUME /data
EXPOSE 8000

HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["entrypoint"]
CMD ["serve"]
