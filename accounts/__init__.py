"""Who we bill: accounts, their members and payment methods, holds on them, and what happened to them."""
