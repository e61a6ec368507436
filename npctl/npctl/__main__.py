"""`python -m npctl`: the same as the program `npctl`."""

from __future__ import annotations

from npctl.main import main

if __name__ == "__main__":
    main()
