"""Where everything answers."""

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from projects import pages

urlpatterns = [
    path("", pages.home, name="home"),
    path("", include("projects.urls")),
    path("", include("inference.urls")),
    path("", include("feedback.urls")),
    path("", include("training.urls")),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("admin/", admin.site.urls),
]
