DATE_FORMAT = "j M Y"
# Never without its zone: "27 Nov 2026, 06:12 (UTC)".
DATETIME_FORMAT = "j M Y, H:i (T)"
