"""May a run start? Probes read the machine, the policy decides, nothing here acts."""
