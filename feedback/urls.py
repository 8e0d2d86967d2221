from django.urls import include, path

urlpatterns = [
    path("api/v1/", include("feedback.api.urls")),
    path("", include("feedback.page_urls")),
]
