# Tact's processes: `docker run tact:0.1.0 api`, `… worker features`. Built from the lock, run by a user without rights.
FROM python:3.11.14-slim-trixie AS built

WORKDIR /build
COPY requirements.lock pyproject.toml ./
# The installer itself is as locked as what it installs. The lock also pins the tools of development; as constraints it
# gives the version and the hashes of what pyproject.toml asks for, and no more is installed.
RUN python -m venv /build/uv \
    && awk '/^uv==/ {on=1} on {print} on && !/\\$/ {exit}' requirements.lock > uv.lock \
    && /build/uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes -r uv.lock \
    && python -m venv --without-pip /opt/tact \
    && /build/uv/bin/uv pip install --quiet --no-cache --python /opt/tact/bin/python --only-binary :all: \
        --require-hashes --compile-bytecode --constraints requirements.lock -r pyproject.toml

WORKDIR /app
COPY api api
COPY engine engine
COPY features features
COPY policies policies
COPY deploy deploy
RUN printf '#!/opt/tact/bin/python\nfrom api.main import main\n\nmain()\n' > /opt/tact/bin/tact \
    && chmod 755 /opt/tact/bin/tact \
    && /opt/tact/bin/python -m compileall -q api engine features policies deploy

FROM python:3.11.14-slim-trixie

RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tact \
    && install --directory --owner tact --group tact --mode 700 /var/lib/tact
COPY --from=built /opt/tact /opt/tact
COPY --from=built /app /app
ENV PATH=/opt/tact/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TACT_DATA=/var/lib/tact
WORKDIR /app
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["python", "deploy/health.py", "api"]
ENTRYPOINT ["tact"]
CMD ["--help"]
