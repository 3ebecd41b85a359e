#!/bin/sh
# Prints the first interpreter that fits: Python 3.11 or 3.12.
fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
version='import platform; print(platform.python_version())'
found=
for name in ${PYTHON:-python3.12 python3.11 python3}; do
    if "$name" -c "$fits" >/dev/null 2>&1; then
        command -v "$name"
        exit 0
    fi
    number=$("$name" -c "$version" 2>/dev/null) &&
        found="$found${found:+, }$name is $number"
done
echo "error: this project needs Python 3.11 or 3.12 (found: ${found:-none});" \
    "install one, for example the packages python3.11 and python3.11-venv," \
    "or name one with 'make book PYTHON=/path/to/python3.12'" >&2
exit 2
