from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from projects import pages

urlpatterns = [
    path("login/", LoginView.as_view(template_name="projects/login.html"), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("healthz", pages.healthz, name="healthz"),
]
