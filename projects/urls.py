from django.conf import settings
from django.contrib.auth.views import LoginView, LogoutView
from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

from projects import pages

urlpatterns = [
    path("login/", LoginView.as_view(template_name="projects/login.html"), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    # Asked for by pages that name no icon of their own, such as the documentation of the API.
    path("favicon.ico", RedirectView.as_view(url=static(settings.FAVICON))),
    path("healthz", pages.healthz, name="healthz"),
]
