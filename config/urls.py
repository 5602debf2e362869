from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from accounts.signing_in.forms import SignInForm

sign_in = LoginView.as_view(template_name="accounts/sign_in.html", authentication_form=SignInForm)
urlpatterns = [
    path("sign-in/", sign_in, name="login"),
    path("sign-out/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("", include("billing.urls")),
]
