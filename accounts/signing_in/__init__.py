"""
Sign in with a password, without letting those who guess take the site away from everybody else.

A password costs half a second of a processor to look at. So tries are counted before it is looked at (`tries`),
and few are looked at at once (`hashing`). The `forms` of the pages and of the admin do both; nothing else takes a
password from somebody who is not signed in.
"""
