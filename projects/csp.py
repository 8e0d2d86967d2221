"""The content security policy by path: strict everywhere, looser for two consoles that we did not write."""

from __future__ import annotations

from csp.middleware import CSPMiddleware, PolicyParts
from django.http import HttpRequest, HttpResponseBase

LOOSER = {
    # django-unfold's widgets (Alpine) evaluate expressions in attributes and set styles.
    "/admin/": {"script-src": ["'self'", "'unsafe-eval'"], "style-src": ["'self'", "'unsafe-inline'"]},
    # Swagger UI writes style elements; its start script comes from a URL of ours.
    "/api/docs/": {"script-src": ["'self'"], "style-src": ["'self'", "'unsafe-inline'"]},
}


class PolicyMiddleware(CSPMiddleware):
    """django-csp, with the replaced directives of LOOSER where the path begins so."""

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        parts = super().get_policy_parts(request, response, report_only)
        for prefix, directives in LOOSER.items():
            if request.path.startswith(prefix):
                parts.replace = {**directives, **(parts.replace or {})}
        return parts
