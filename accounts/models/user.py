from typing import Any, ClassVar

from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models
from django.db.models.functions import Lower


class EmailUserManager(UserManager["User"]):
    """Creates users by email; the login name is the email, in whatever case it is typed."""

    def get_by_natural_key(self, username: str | None) -> "User":
        """Find who signs in."""
        return self.alias(lowered=Lower("email")).get(lowered=(username or "").lower())

    def of_email(self, email: str) -> "User | None":
        """The user of an address, or None."""
        return self.alias(lowered=Lower("email")).filter(lowered=email.lower()).first()

    def _create(self, email: str, password: str | None, **extra: Any) -> "User":
        user = self.model(email=self.normalize_email(email), **extra)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_user(  # type: ignore[override]
        self, email: str, password: str | None = None, **extra: Any
    ) -> "User":
        """Create a user who may sign in with this email."""
        return self._create(email, password, **extra)

    def create_superuser(  # type: ignore[override]
        self, email: str, password: str | None = None, **extra: Any
    ) -> "User":
        """Create a user who may do everything in the admin."""
        return self._create(email, password, is_staff=True, is_superuser=True, **extra)


class User(AbstractUser):
    """A person who signs in: a customer's member, or staff."""

    username = None  # type: ignore[assignment]
    email = models.EmailField("email", unique=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    objects = EmailUserManager()  # type: ignore[misc]

    class Meta(AbstractUser.Meta):
        constraints = [
            models.UniqueConstraint(
                Lower("email"),
                name="one_user_per_address_in_any_case",
                violation_error_message="There is a user with this email already.",
            ),
        ]

    def __str__(self) -> str:
        return self.email
