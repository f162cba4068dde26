# One image for every stage: what a container does is its command (docker-compose.yml).
FROM python:3.11-slim

# Each process works on one frame at a time: more threads would only fight over the cores.
ENV OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1 \
    NUMBA_CACHE_DIR=/home/nucleate/kernels \
    PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --create-home --uid 1000 nucleate
WORKDIR /app
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY configs configs
COPY pipeline pipeline
COPY detectors detectors
# The lock file pins; the project says what is needed to run.
RUN pip install --no-cache-dir --constraint requirements.lock ".[images]"

# Volumes take over the owner of the folder that they are mounted on.
RUN mkdir -p /data/recordings /keys /run/nucleate \
    && chown -R nucleate:nucleate /data /keys /run/nucleate

USER nucleate
# Away from the sources, so that the installed package is what runs; compiles the kernels.
WORKDIR /home/nucleate
RUN nucleate doctor --data-dir /tmp/doctor && rm -r /tmp/doctor

CMD ["nucleate", "--help"]
