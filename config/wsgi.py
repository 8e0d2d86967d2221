"""WSGI entry: REST and admin in production, where a sync view is cheaper than under ASGI."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
application = get_wsgi_application()

from config.checks import refuse_unsafe_start  # noqa: E402  settings are ready only now

refuse_unsafe_start()
