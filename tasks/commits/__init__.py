"""One commit against another on the same devices: their code, their processes, their turns, and who did it."""
