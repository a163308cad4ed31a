"""From a folder to a config: what the data are, rules with reasons, and the config they make."""
