# Functions of the scripts in this folder: they read the command line, find fairseq-kd and become its process.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# study NAME WORDS: run the study configs/studies/NAME.yaml, and then write and print its report.
study() {
    local report=(--with-report)
    begin synthetic "${@:2}"
    has --dry-run && report=()
    read_recipe
    set -- study run "$1" ${report[@]+"${report[@]}"} --recipe "$word" --out "runs/$1-$name"
    exec "$fairseq_kd" "$@" ${options[@]+"${options[@]}"}
}

# search NAME WORDS: run the search configs/searches/NAME.yaml, which ends with its report.
search() {
    begin synthetic "${@:2}"
    read_recipe
    exec "$fairseq_kd" search "$1" --recipe "$word" --out "runs/search-$name" ${options[@]+"${options[@]}"}
}

# prepare OUT CORPUS [OPTIONS] -- WORDS: make a data-bin. OUT: the folder if WORDS do not begin with one.
prepare() {
    local out=$1 command=()
    while shift && [ "$1" != -- ]; do
        command+=("$1")
    done
    begin "$out" "${@:2}"
    exec "$fairseq_kd" prepare "${command[@]}" --out "$word" ${options[@]+"${options[@]}"}
}

# begin DEFAULT WORDS: `start`, and set `word` to the first of WORDS, or to DEFAULT if it is an option, and `options` to the others. A known
# recipe at the end of WORDS is also found.
begin() {
    word=$1
    shift
    start "$@"
    if [ $# -gt 0 ] && [[ $1 != -* ]]; then
        word=$1
        options=("${@:2}")
    elif [ $# -gt 1 ] && [ "${*: -2:1}" != --recipe ] && is_recipe "${*: -1}"; then
        word=${*: -1}
        options=("${@:1:$#-1}")
    fi
}

# start WORDS: answer --help by the comment of the script, set `options` to WORDS, and find fairseq-kd.
start() {
    options=("$@")
    if has --help || has -h; then
        sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
        exit 0
    fi
    fairseq_kd=$root/.venv/bin/fairseq-kd
    if [ ! -x "$fairseq_kd" ] && ! fairseq_kd=$(command -v fairseq-kd); then
        stop "fairseq-kd is neither in $root/.venv/bin nor on the PATH: run \`make quickstart\` in $root first"
    fi
}

# stop TEXT: print the error and end.
stop() {
    echo "$1" >&2
    exit 2
}

# has OPTION: whether it is among `options`.
has() {
    local each
    for each in ${options[@]+"${options[@]}"}; do
        [ "$each" != "$1" ] || return 0
    done
    return 1
}

is_recipe() {
    [ -f "$root/configs/quickstart/$1.yaml" ] || [ -f "$root/configs/datasets/$1.yaml" ]
}

# read_recipe: set `word` to the value of --recipe if it is among `options`, and `name` to the recipe without its path.
read_recipe() {
    local at
    for ((at = 0; at < ${#options[@]}; at++)); do
        case ${options[at]} in
            --recipe) word=${options[at + 1]-} ;;
            --recipe=*) word=${options[at]#*=} ;;
        esac
    done
    name=${word##*/}
    name=${name%.yaml}
}
