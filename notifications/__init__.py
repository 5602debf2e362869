"""An outbox that delivers each message once, or says why not. It knows no invoice."""
