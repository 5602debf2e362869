"""How the admin writes dates and instants, by the language of who reads; what is not here is Django's."""
