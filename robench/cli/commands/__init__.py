"""The commands: their options and their help. A command imports its work when it runs, so that help is quick."""
