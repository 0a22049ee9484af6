# What ci/image and ci/apptainer share; sourced, never run.

say() { echo "${0##*/}: $*"; }
fail() {
    echo "${0##*/}: FAILED: $*" >&2
    exit 1
}
skip() {
    echo "${0##*/}: SKIPPED: $*"
    echo "${0##*/}: nothing was built or tested; run it as root on a Debian or Ubuntu with a package mirror"
    exit 0
}

need_root() { [ "$(id -u)" = 0 ] || skip "it needs root"; }

# Each argument is PACKAGE:COMMAND; installs packages whose command is not there.
need_packages() {
    local pair missing=""
    for pair in "$@"; do
        command -v "${pair#*:}" >/dev/null 2>&1 || missing="$missing ${pair%%:*}"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 || skip "there is no apt-get to install$missing"
    # shellcheck disable=SC2086
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1 \
        || skip "$missing cannot be installed"
}

DOCKER_PID=""
start_docker() { # folder for its log and state
    docker info >/dev/null 2>&1 && return 0
    setsid dockerd --data-root "$1/docker" >"$1/dockerd.log" 2>&1 &
    DOCKER_PID=$!
    local waited
    for waited in $(seq 60); do
        docker info >/dev/null 2>&1 && return 0
        kill -0 "$DOCKER_PID" 2>/dev/null || break
        sleep 0.5
    done
    tail -3 "$1/dockerd.log"
    skip "the Docker daemon does not start here (${waited} tries)"
}

stop_docker() {
    [ -n "$DOCKER_PID" ] || return 0
    kill "$DOCKER_PID" 2>/dev/null
    local waited
    for waited in $(seq 40); do
        kill -0 "$DOCKER_PID" 2>/dev/null || break
        sleep 0.5
    done
    DOCKER_PID=""
}

# A minimal Debian that knows this machine's certificates and pip's configuration, in a folder. A folder of wheels, which may hold one of
# torch without CUDA, goes along unless torch is to be the one with CUDA.
stand_in() { # suite, folder, packages, cpu or cuda
    local suite=$1 folder=$2 include=${3:-} torch=${4:-cpu} links
    debootstrap --variant=minbase ${include:+--include="$include"} "$suite" "$folder" >"$folder.log" 2>&1 || return 1
    local bundle="${SSL_CERT_FILE:-${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}}"
    [ -f "$bundle" ] && cp "$bundle" "$folder/etc/build-ca.pem"
    {
        echo "[global]"
        [ -f "$folder/etc/build-ca.pem" ] && echo "cert = /etc/build-ca.pem"
        python3 -m pip config list 2>/dev/null | sed -n "s/^global\.\(index-url\|trusted-host\)='\(.*\)'$/\1 = \2/p"
        links=$(python3 -m pip config list 2>/dev/null | sed -n "s/^.*find-links='\(.*\)'$/\1/p" | tail -1)
        if [ "$torch" = cpu ] && [ -n "$links" ] && [ -d "$links" ]; then
            mkdir -p "$folder$links" && cp -a "$links/." "$folder$links/" && echo "find-links = $links"
        fi
    } >"$folder/etc/pip.conf"
}

# Sets BASE to an image that can be built on.
base_image() { # scratch folder, name for the stand-in, cpu or cuda
    BASE=debian:bookworm-slim
    if docker image inspect "$BASE" >/dev/null 2>&1 || timeout 60 docker pull -q "$BASE" >/dev/null 2>&1; then return 0; fi
    say "no registry answers: a Debian from the package mirror stands in for $BASE"
    stand_in bookworm "$1/base" "" "${3:-cpu}" || skip "no base image, and debootstrap finds no mirror"
    tar -C "$1/base" -c . | docker import - "$2" >/dev/null || fail "the base image could not be imported"
    rm -rf --one-file-system "$1/base"
    BASE=$2
}

apps_of_project() { sed -n '/^\[project.entry-points."conform.apps"\]/,/^$/s/^\([a-z]*\) = .*/\1/p' pyproject.toml; }

size_of() { docker image inspect -f '{{.Size}}' "$1" | awk '{printf "%.2f GB", $1 / 1e9}'; }

# The chain, a step a line: app, level, options. Small enough for minutes on two cores.
COMMON="--nprocs 2 --skip-bids-validation"
CHAIN=("glm participant" "psn participant" "align participant --output-spaces fsaverage5" "align group --output-spaces fsaverage5"
    "encode participant --output-spaces fsaverage5 --components 8 --bootstraps 20")

derivatives_of() { # app, folder of the derivatives: what it reads
    local app=$1 folder=$2 earlier
    for earlier in glm psn align; do
        [ "$earlier" = "$app" ] && break
        [ -d "${HOST_OUT:-$OUT}/conform-$earlier" ] && printf -- '-d conform-%s=%s/conform-%s ' "$earlier" "$folder" "$earlier"
    done
}

# The same chain in the virtual environment of the checkout; sets REFERENCE to the folder with dataset/ and derivatives/. A folder that
# CONFORM_CHAIN names is used again where it holds a whole run.
chain_in_venv() { # scratch folder
    local folder="${CONFORM_CHAIN:-$1/venv}" step app level options started=$SECONDS
    source "$here/setup.sh" none >/dev/null 2>"$1/setup.log" || { tail -5 "$1/setup.log"; fail "no virtual environment"; }
    REFERENCE=$folder
    [ -f "$folder/whole" ] && return 0
    "$PYTHON" -m bids_app.demo simulate "$folder/dataset" --subjects 3 --sessions 1 --runs 4 --file-formats gifti >"$1/simulate.log" 2>&1 \
        || { tail -5 "$1/simulate.log"; fail "the dataset could not be simulated"; }
    for step in "${CHAIN[@]}"; do
        read -r app level options <<<"$step"
        OUT="$folder/derivatives"
        # shellcheck disable=SC2086
        "$PYTHON" -m "bids_app.$app" "$folder/dataset" "$OUT/conform-$app" "$level" -w "$folder/work" $COMMON \
            $(derivatives_of "$app" "$OUT") $options >"$1/venv-$app-$level.log" 2>&1 \
            || { tail -30 "$1/venv-$app-$level.log"; fail "conform-$app $level in the virtual environment"; }
    done
    touch "$folder/whole"
    say "the chain ran in the virtual environment in $((SECONDS - started)) s"
}

compare_trees() { "$PYTHON" "$here/compare_trees.py" "$1" "$2"; }
