"""``python -m agent`` is ``netpol-agent``."""

from agent.commands.cli import main

if __name__ == "__main__":
    main()
