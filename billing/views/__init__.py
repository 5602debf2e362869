"""Pages: what customers see of their accounts, and finance of the close. They load, call, answer."""
