#!/usr/bin/env bash
# Update .venv to requirements.txt, and with "demo", "dev" and "mutation" to those lists; return at once if it is up to date.
#   PYTHON=python3.12 bash scripts/setup.sh [demo] [dev] [mutation]
set -euo pipefail
cd "$(dirname "$0")/.."

files=(requirements.txt)
for list in "$@"; do files+=("requirements-$list.txt"); done

# .venv holds the lists as last installed: if all are equal, there is nothing to do.
current=yes
for file in "${files[@]}"; do cmp -s "$file" ".venv/$file" || current=no; done
[ "$current" = yes ] && exit 0

python=${PYTHON:-python3}
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))'; then
    echo "setup: Python 3.10 to 3.13 is needed, and $python is not: name one, as in PYTHON=python3.12 bash $0" >&2
    exit 2
  fi
  echo "setup: making .venv with $("$python" --version)"
  "$python" -m venv --clear .venv
fi
echo "setup: installing ${files[*]} into .venv (some minutes the first time)"
quiet=(-qq)
[ -t 1 ] && quiet=() # on a terminal pip's own progress bars are welcome; macOS's bash 3.2 calls an empty list unbound
.venv/bin/python -m pip install --disable-pip-version-check ${quiet[@]+"${quiet[@]}"} "${files[@]/#/-r}"
cp "${files[@]}" .venv/
