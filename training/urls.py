from django.urls import include, path

urlpatterns = [
    path("api/v1/", include("training.api.urls")),
    path("", include("training.page_urls")),
]
