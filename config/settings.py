"""Every setting of Ratchet, each from the environment with a default that works on a laptop.

A secret `NAME` can also come from a file named by `NAME_FILE`. Unsafe or impossible values stop the start:
see config/checks.py.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from csp.constants import NONCE
from django.templatetags.static import static

from config.environment import Environment

ROOT = Path(__file__).resolve().parent.parent


env = Environment()

# --- Where things lie --------------------------------------------------------------------------------
VAR_DIR = Path(env.str("VAR_DIR", default=str(ROOT / "var"))).resolve()
# One filesystem that trainers, worker and engines share: datasets, run directories, versions.
ARTIFACTS_DIR = Path(env.str("ARTIFACTS_DIR", default=str(VAR_DIR / "artifacts"))).resolve()
# The base model as prepared by `make model`: safetensors, tokenizer and manifest.
MODEL_DIR = Path(env.str("MODEL_DIR", default=str(ROOT / "var/models/smollm2-135m-instruct"))).resolve()


def _secret(name: str, file_default: Path, fallback: str) -> str:
    """NAME, else the file NAME_FILE, else the file that the setup wrote, else a value for development."""
    if f"{name}_FILE" not in os.environ and name not in os.environ and file_default.is_file():
        return file_default.read_text().strip()
    return str(env.str(name, default=fallback))


# --- Django ------------------------------------------------------------------------------------------
DEBUG = env.bool("DEBUG", default=False)
INSECURE_KEY = "insecure-development-key-never-serve-with-it"
SECRET_KEY = _secret("SECRET_KEY", ROOT / "var/secrets/secret_key", INSECURE_KEY)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
# True behind a proxy that ends TLS: cookies become Secure and X-Forwarded-Proto is believed.
HTTPS = env.bool("HTTPS", default=False)

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_htmx",
    "csp",
    "config.apps.RatchetConfig",
    "projects",
    "inference",
    "feedback",
    "training",
]
MIDDLEWARE = [
    "projects.middleware.RequestIdMiddleware",
    "projects.middleware.ErrorShapeMiddleware",  # so far out that it shapes what the others refuse, too
    "projects.middleware.PagesMiddleware",
]
# What only pages need. A program's request passes it by: each of these costs it a change of threads.
PAGE_MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "projects.csp.PolicyMiddleware",
    "projects.middleware.StaticFilesMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "projects.middleware.SignedOutMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "projects.middleware.RaterLimitMiddleware",
]
# The console looks for its middleware in MIDDLEWARE alone.
SILENCED_SYSTEM_CHECKS = ["admin.E408", "admin.E409", "admin.E410"]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
WSGI_APPLICATION = "config.wsgi.application"
AUTH_USER_MODEL = "projects.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = env.str("TIME_ZONE", default="UTC")
LANGUAGE_CODE = "en"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [ROOT / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "csp.context_processors.nonce",
                "projects.context.navigation",
                "feedback.context.engine",
            ],
        },
    }
]

STATIC_URL = "/static/"
FAVICON = "projects/favicon.svg"
STATIC_ROOT = VAR_DIR / "static"
WHITENOISE_USE_FINDERS = True  # no collectstatic step on a laptop; production may still collect

# --- Database ----------------------------------------------------------------------------------------
DATABASES = {"default": env.database("DATABASE_URL", f"sqlite:///{VAR_DIR / 'ratchet.sqlite3'}")}
# Connections of one process to PostgreSQL. A stream holds none, so a few serve many readers.
DATABASE_POOL_SIZE = env.int("DATABASE_POOL_SIZE", default=16)
# Of these, so many are for streams, for pages and for REST each, half as many for what takes long: see
# projects/threaded.py.
DATABASE_THREADS = max(1, DATABASE_POOL_SIZE // 4)
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",  # a claim is a write from its first statement
        "timeout": 20,
        # The last two are for tables that outgrow the usual 2 MB of pages: what an import commits fits into
        # 8, and what the next ones change again is copied into the file once, after every 32 MB.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-8000; "
        "PRAGMA wal_autocheckpoint=8000;",
    }
else:
    DATABASES["default"]["ENGINE"] = "projects.postgresql"
    # A pool that tried in vain for a second tries again when somebody asks. By default it asks ever more
    # seldom, for minutes, and so found a database that was back only after as long as it had been away.
    pool = {"min_size": 1, "max_size": DATABASE_POOL_SIZE, "timeout": 1.2, "reconnect_timeout": 1}
    DATABASES["default"]["OPTIONS"] = {
        "connect_timeout": 2,
        "pool": pool,
        **DATABASES["default"].get("OPTIONS", {}),  # such as ?sslmode=require in the URL
    }
# Django's own ATOMIC_REQUESTS stays off: services say what belongs together.

# --- The engine --------------------------------------------------------------------------------------
ENGINE_URLS = [url.rstrip("/") for url in env.list("ENGINE_URLS", default=["http://127.0.0.1:8001"])]
ENGINE_API_KEY = _secret("ENGINE_API_KEY", ROOT / "var/secrets/engine_api_key", "")
# The name under which every engine serves the base model (vLLM: --served-model-name).
ENGINE_SERVED_NAME = env.str("ENGINE_SERVED_NAME", default=MODEL_DIR.name)
# Tokens that a prompt and its answer may have together.
CONTEXT_LENGTH = env.int("CONTEXT_LENGTH", default=2048)
# Answers that one web process relays at a time; more are answered 429.
MAX_STREAMS = env.int("MAX_STREAMS", default=256)
# Answers to imported prompts that are made at a time, less those that people wait for.
SAMPLE_CONCURRENCY = env.int("SAMPLE_CONCURRENCY", default=4)
FIRST_TOKEN_SECONDS = env.float("FIRST_TOKEN_SECONDS", default=60.0)
TOKEN_GAP_SECONDS = env.float("TOKEN_GAP_SECONDS", default=30.0)
ANSWER_SECONDS = env.float("ANSWER_SECONDS", default=600.0)
# A chat page's answer goes on this long after its last reader left.
READERLESS_SECONDS = env.float("READERLESS_SECONDS", default=15.0)

# --- Celery: the broker is only a bell ---------------------------------------------------------------
BROKER_URL = env.str("BROKER_URL", default="filesystem://")
BROKER_DIR = Path(env.str("BROKER_DIR", default=str(VAR_DIR / "broker")))

# --- Training ----------------------------------------------------------------------------------------
LAUNCHER = env.str("LAUNCHER", default="local")  # local, slurm or kubernetes
RUN_LEASE_SECONDS = env.float("RUN_LEASE_SECONDS", default=30.0)
RUN_MAX_SECONDS = env.float("RUN_MAX_SECONDS", default=86_400.0)
RUN_ATTEMPTS = env.int("RUN_ATTEMPTS", default=3)
# A child that has not touched its heartbeat for so long is killed and counted as lost.
RUN_SILENCE_SECONDS = env.float("RUN_SILENCE_SECONDS", default=60.0)
# Datasets of projects with more judgements are previewed and compiled by a worker.
COMPILE_IN_REQUEST = env.int("COMPILE_IN_REQUEST", default=20_000)
# The name of this trainer's slot: one run at a time each. Two trainers on one host need two names.
TRAINER = env.str("TRAINER", default=socket.gethostname())
TRAIN_DEVICE = env.str("TRAIN_DEVICE", default="auto")  # auto, cpu or cuda
TRAIN_THREADS = env.int("TRAIN_THREADS", default=0)  # 0: as many as the machine has
# Processes that train one run together, through accelerate, each on a GPU of its own.
TRAIN_PROCESSES = env.int("TRAIN_PROCESSES", default=1)
# What a run asks a cluster for, beside a GPU for each of its processes (none with TRAIN_DEVICE=cpu).
TRAIN_CPUS = env.int("TRAIN_CPUS", default=4)
TRAIN_MEMORY_GB = env.int("TRAIN_MEMORY_GB", default=32)
# More options of sbatch, such as partition=gpu,account=lab.
TRAIN_SLURM = env.dict("TRAIN_SLURM", default={})
KUBERNETES_NAMESPACE = env.str("KUBERNETES_NAMESPACE", default="default")
KUBERNETES_IMAGE = env.str("KUBERNETES_IMAGE", default="")
# The claim that holds ARTIFACTS_DIR and MODEL_DIR, and where both sides mount it.
KUBERNETES_CLAIM = env.str("KUBERNETES_CLAIM", default="")
KUBERNETES_MOUNT = Path(env.str("KUBERNETES_MOUNT", default=str(ARTIFACTS_DIR.parent)))
KUBERNETES_GPU = env.str("KUBERNETES_GPU", default="nvidia.com/gpu")

# --- Webhooks ----------------------------------------------------------------------------------------
# Networks that are not public and may be called all the same, such as 10.1.0.0/16.
WEBHOOK_NETWORKS = env.list("WEBHOOK_NETWORKS", default=[])

# --- REST --------------------------------------------------------------------------------------------
MAX_BODY_BYTES = env.int("MAX_BODY_BYTES", default=1_000_000)
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
# Requests a minute of one key, and judgements and other posts of one person; 0 is no limit.
RATE_LIMIT_KEY = env.int("RATE_LIMIT_KEY", default=60_000)
RATE_LIMIT_RATER = env.int("RATE_LIMIT_RATER", default=600)
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["projects.auth.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["projects.auth.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["projects.bodies.StrictJSONParser"],
    "EXCEPTION_HANDLER": "projects.errors.api_exception_handler",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "UNAUTHENTICATED_USER": None,
    "URL_FORMAT_OVERRIDE": None,  # ?format= is an unknown parameter like any other
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Ratchet",
    "VERSION": "1",
    "DESCRIPTION": (
        "Send an API key as `Authorization: Bearer rk_...`; it belongs to one project. 2xx means committed. "
        "Every error is an object `error` with type, code, message, param and request_id; 429 and 503 carry "
        "Retry-After. Working examples in curl, Python and JavaScript: docs/api.md and docs/examples."
    ),
    "OAS_VERSION": "3.1.0",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SERVE_INCLUDE_SCHEMA": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "projects.schema.describe_calls",
    ],
    "ENUM_NAME_OVERRIDES": {
        "DatasetStatus": "training.models.Dataset.Status",
        "RunStatus": "training.models.Run.Status",
        "EvaluationStatus": "training.models.Evaluation.Status",
        "VersionStatus": "inference.models.Version.Status",
    },
    "SERVE_AUTHENTICATION": ["rest_framework.authentication.SessionAuthentication"],
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
}

# Sites whose scripts may call /v1 and /api/v1 from a browser with a key; * is any, none by default. Cookies
# never count there, so no page of another site can act as a person who is signed in.
CORS_ORIGINS = env.list("CORS_ORIGINS", default=[])
if CORS_ORIGINS:
    MIDDLEWARE.insert(1, "corsheaders.middleware.CorsMiddleware")
CORS_URLS_REGEX = r"^/(api/)?v1/"
CORS_ALLOW_ALL_ORIGINS = CORS_ORIGINS == ["*"]
CORS_ALLOWED_ORIGINS = CORS_ORIGINS
CORS_ALLOW_CREDENTIALS = False
CORS_ALLOW_HEADERS = ["*", "authorization"]  # browsers do not count the latter to the star
CORS_EXPOSE_HEADERS = [
    "X-Request-Id", "X-Ratchet-Version", "Retry-After", "Idempotent-Replayed",
    "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset",
]  # fmt: skip

# --- Security ----------------------------------------------------------------------------------------
CSRF_FAILURE_VIEW = "projects.error_pages.csrf_failure"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'", NONCE],
        "style-src": ["'self'", NONCE],
        "img-src": ["'self'", "data:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env.log_level("LOG_LEVEL", "INFO")},
    "loggers": {"httpx": {"level": "WARNING"}},
}

# Libraries reach no network and send no telemetry unless somebody asks for it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")

UNFOLD = {
    "SITE_TITLE": "Ratchet",
    "SITE_HEADER": "Ratchet",
    "SITE_SYMBOL": "settings",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static(FAVICON)}],
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_HISTORY": False,  # audit events are the one history
    # The accent of the pages, as tints; white on 600 holds 4.5 to 1.
    "COLORS": {
        "primary": {
            "50": "oklch(98.4% .014 180.72)",
            "100": "oklch(95.3% .051 180.801)",
            "200": "oklch(91% .096 180.426)",
            "300": "oklch(85.5% .138 181.071)",
            "400": "oklch(77.7% .152 181.912)",
            "500": "oklch(70.4% .14 182.503)",
            "600": "oklch(49% .092 186.391)",
            "700": "oklch(45% .085 187.5)",
            "800": "oklch(40% .07 188.216)",
            "900": "oklch(36% .06 188.416)",
            "950": "oklch(27.7% .046 192.524)",
        }
    },
}
