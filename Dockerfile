# The demo as a container; what it builds stays in the volume:
#   docker build -t react-pipeline-demo . && docker run --rm -v react:/data react-pipeline-demo
# All parts of Dagster for a server (dagster_home/production/compose.yaml): add --target production.
# For a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 or cu126 by card and driver (docs/scale.md),
# and `docker run --gpus all --shm-size 16g`.
FROM python:3.11-slim AS package
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "torch>=2.6,<3" "torchvision>=0.21,<1"
WORKDIR /opt/react
COPY . .
RUN pip install --no-cache-dir -c constraints.txt . && pip install --no-cache-dir --no-deps -r no-deps.txt
# The store, the configuration and the domains are mounted; nothing of them is in the image.
RUN useradd --create-home react && mkdir -p /data /opt/dagster && chown react /data /opt/dagster
WORKDIR /data

# Code server, webserver and daemon, and every run in Kubernetes.
FROM package AS production
RUN pip install --no-cache-dir -c /opt/react/constraints.txt '/opt/react[kubernetes]' \
    && install -D /opt/react/dagster_home/production/dagster-webserver /opt/guarded/dagster-webserver \
    && cat /opt/react/dagster_home/dagster.yaml /opt/react/dagster_home/production/storage.yaml > /opt/dagster/dagster.yaml \
    && cp /opt/react/dagster_home/production/workspace.yaml /opt/dagster/workspace.yaml
# Without the last variable backfills fail while the code server starts.
ENV PATH=/opt/guarded:$PATH DAGSTER_HOME=/opt/dagster DAGSTER_COMPUTE_LOGS=/data/logs REACT_PIPELINE_CONFIG=/data/pipeline.yaml \
    DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR=1
USER react

FROM package AS demo
RUN pip install --no-cache-dir -c /opt/react/constraints.txt '/opt/react[demo]'
USER react
ENTRYPOINT ["react-pipeline"]
CMD ["demo"]
