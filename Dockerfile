# The gateway with its built-in model: answers without a key and without a network.
#   docker build -t openclaw-gateway .
#   docker run -p 18789:18789 -e OPENCLAW_GATEWAY_TOKEN=… -v openclaw:/state openclaw-gateway

FROM python:3.11-slim AS build
WORKDIR /gateway
RUN python -m venv /venv
COPY requirements.txt ./
COPY packages packages
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements.txt
COPY pyproject.toml README.md LICENSE gunicorn.conf.py openclaw_gunicorn.py wsgi.py ./
COPY deploy/docker.json5 deploy/docker.json5
COPY app app
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --editable . \
 && /venv/bin/python -m compileall -q app

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home gateway \
 && install --directory --owner gateway --mode 0700 /state
COPY --from=build /venv /venv
COPY --from=build /gateway /gateway
WORKDIR /gateway
USER 10001
ENV PATH=/venv/bin:$PATH \
    OPENCLAW_GATEWAY_HOST=0.0.0.0 \
    OPENCLAW_STATE_DIR=/state \
    OPENCLAW_CONFIG_PATH=/gateway/deploy/docker.json5
EXPOSE 18789
# Longer than the drain: docker stop --time 35, or stop_grace_period in a compose file.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import http.client, os; gateway = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 18789), timeout=4); gateway.request('GET', '/healthz'); raise SystemExit(gateway.getresponse().status != 200)"]
CMD ["gunicorn", "wsgi:app"]
