"""Run the command-line program without installing it.

`PYTHONPATH=code python3 -m workshop.cli cluster status`
"""

from workshop.cli import main

main()
