"""How fast a run answers on this machine, beside what the machine can do."""
