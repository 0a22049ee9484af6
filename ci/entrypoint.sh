#!/bin/sh
# conform APP [arguments]: runs conform-APP of the virtual environment.
set -eu
bin=/opt/conform/bin
app=${1:-}
if [ -n "$app" ] && [ -x "$bin/conform-$app" ]; then
    shift
    exec "$bin/conform-$app" "$@"
fi
{
    echo "usage: conform APP bids_dir output_dir {participant,group} [options]"
    echo "apps:"
    for path in "$bin"/conform-*; do echo "  ${path#"$bin"/conform-}"; done
} >&2
exit 2
