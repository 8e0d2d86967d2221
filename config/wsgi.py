"""WSGI entry, for REST and admin under a server of the operator's choice. Streams need config/asgi.py."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
application = get_wsgi_application()

from config.checks import refuse_unsafe_start  # noqa: E402  settings are ready only now

refuse_unsafe_start()
