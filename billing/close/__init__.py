"""
The month close.

`runs` starts one, `pipeline` declares its steps, `runner` works on them, `sweeper` heals what died.
"""
