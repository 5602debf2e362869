"""
The month close.

`runs` starts one, `pipeline` lists its steps, `engine/runner` works on them, `health/sweeper` heals what died.
"""
