"""May a run start, and may it keep running? Probes read the machine, policies decide; nothing here acts."""
