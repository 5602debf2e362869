# Never without its zone: "2026. november 27., 06:12 (UTC)".
DATETIME_FORMAT = "Y. F j., H:i (T)"
