# One image for the site, the workers and the sweeper: compose.yaml says which is which.
FROM python:3.12-slim AS build
WORKDIR /app
RUN python -m venv .venv
COPY requirements/runtime.txt requirements/runtime.txt
# The lock names every package with its hash: nothing is resolved, nothing else is installed.
RUN .venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/runtime.txt
COPY . .
# The defaults will do: neither asks for a database or a secret.
RUN .venv/bin/python manage.py compile_catalogs && .venv/bin/python manage.py collectstatic --no-input

FROM python:3.12-slim
RUN useradd --system --create-home --home-dir /var/lib/month-close month-close
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    EMBEDDED_DB_DIR=/var/lib/month-close/postgres EMAIL_FILE_PATH=/var/lib/month-close/mail
USER month-close
EXPOSE 8000
CMD ["gunicorn", "--config", "python:config.web_server", "--bind", "0.0.0.0:8000"]
