"""Where everything answers."""

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from projects import pages

urlpatterns = [
    path("", pages.home, name="home"),
    path("", include("projects.urls")),
    path("api/v1/", include("projects.api.urls")),
    path("", include("inference.urls")),
    path("", include("feedback.urls")),
    path("", include("training.urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    path("admin/", admin.site.urls),
]

# Django looks these up here by name.
handler400 = "projects.error_pages.bad_request"
handler403 = "projects.error_pages.forbidden"
handler404 = "projects.error_pages.not_found"
handler500 = "projects.error_pages.server_error"
