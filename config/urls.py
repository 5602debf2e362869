from django.contrib import admin
from django.contrib.auth import views as auth
from django.urls import include, path, reverse_lazy

from accounts.signing_in.forms import SignInForm
from billing.views.profile import ForgottenForm

sign_in = auth.LoginView.as_view(
    template_name="accounts/sign_in.html", authentication_form=SignInForm
)
urlpatterns = [
    path("sign-in/", sign_in, name="login"),
    path("sign-out/", auth.LogoutView.as_view(), name="logout"),
    path(
        "password/",
        auth.PasswordChangeView.as_view(
            template_name="accounts/password_change.html", success_url=reverse_lazy("profile")
        ),
        name="password_change",
    ),
    path(
        "password/forgotten/",
        auth.PasswordResetView.as_view(
            template_name="accounts/password_forgotten.html", form_class=ForgottenForm
        ),
        name="password_reset",
    ),
    path(
        "password/forgotten/sent/",
        auth.PasswordResetDoneView.as_view(template_name="accounts/password_sent.html"),
        name="password_reset_done",
    ),
    path(
        "password/new/<uidb64>/<token>/",
        auth.PasswordResetConfirmView.as_view(
            template_name="accounts/password_new.html", success_url=reverse_lazy("login")
        ),
        name="password_reset_confirm",
    ),
    path("admin/", admin.site.urls),
    path("", include("billing.urls")),
]
