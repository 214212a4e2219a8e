#!/usr/bin/env bash
# Distil OPUS-MT, NLLB, M2M-100 or mBART-50, converted by CTranslate2, into a small student: docs/distil-pretrained.md.
#
# Usage: scripts/distil_pretrained.sh [OPTIONS] --raw DIR --source-lang LANG --target-lang LANG
#            --teacher-folder DIR --family NAME [-- OPTIONS OF fairseq-train]
#
# --raw DIR                    your text: train.LANG, valid.LANG and test.LANG for both languages
# --source-lang, --target-lang the endings of these files
# --teacher-folder DIR         the converted teacher
# --family NAME                opus-mt, nllb, m2m100 or mbart50
# --teacher-source-lang CODE, --teacher-target-lang CODE   the languages in the codes of the family
# --text FILE                  more text in the source language, one sentence per line; can be repeated
# --out DIR                    folder of everything that is made (default: runs/distil-pretrained)
# --parameters N               size of the student (default: 3M)
# --vocab-size N               subwords of the student (default: 8000)
# --max-update N               updates of the training, a multiple of 10 (default: 50000)
# --dtype TYPE                 numbers in which the teacher is computed: float32 (default), float16, int8, ...
# --cpu                        do not use CUDA
# The command ends with the report and its path.
# After an interrupt, the same command continues.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# read_options WORDS: set one variable per option, and `training` to the words after --.
read_options() {
    raw='' source_lang='' target_lang='' teacher_folder='' family='' teacher_source_lang='' teacher_target_lang=''
    out=runs/distil-pretrained parameters=3M vocab_size=8000 max_update=50000 dtype='' cpu=() texts=() training=()
    while [ $# -gt 0 ]; do
        case $1 in
            --cpu) cpu=(--cpu) && shift && continue ;;
            --) training=("${@:2}") && break ;;
        esac
        [ $# -gt 1 ] || stop "$1 has no value, or is no option: see $0 --help"
        case $1 in
            --raw | --source-lang | --target-lang | --teacher-folder | --family | --teacher-source-lang | \
                --teacher-target-lang | --out | --parameters | --vocab-size | --max-update | --dtype)
                name=${1#--}
                printf -v "${name//-/_}" %s "$2"
                ;;
            --text) texts+=("$2") ;;
            *) stop "$1 is no option: see $0 --help" ;;
        esac
        shift 2
    done
    for name in raw source_lang target_lang teacher_folder family; do
        [ -n "${!name}" ] || stop "--${name//_/-} is missing: see $0 --help"
    done
    [[ $max_update =~ ^[1-9][0-9]*0$ ]] || stop "--max-update $max_update: must be a multiple of 10, a checkpoint is kept after each tenth"
}

# check_same WORDS: refuse an OUT that was made with other words.
check_same() {
    local words
    words=$(printf '%q ' "$@")
    mkdir -p "$out"
    only_one
    if [ ! -f "$out/options" ]; then
        echo "$words" > "$out/options.part"
        mv "$out/options.part" "$out/options"
    elif [ "$words" != "$(< "$out/options")" ]; then
        stop "$out was made with other options ($(< "$out/options")): give these, or choose another --out"
    fi
}

# only_one: refuse an OUT in which another run works, or what a killed one has left running.
only_one() {
    command -v flock > /dev/null || { echo "flock is not installed: give each run an --out of its own" >&2 && return; }
    exec 9> "$out/lock"
    flock -n 9 || stop "another run works in $out: wait for it, or choose another --out"
}

# beside NAME: the command in the folder of fairseq-kd, or the one on the PATH.
beside() {
    local found
    found=$(dirname "$fairseq_kd")/$1
    [ -x "$found" ] || found=$(command -v "$1") || stop "$1 is not installed beside $fairseq_kd: install fairseq_kd again"
    echo "$found"
}

# keep FILE COMMAND: write the output of the command to FILE, unless FILE is finished.
keep() {
    if [ ! -f "$1" ]; then
        "${@:2}" > "$1.part"
        mv "$1.part" "$1"
    fi
}

# teach OUT WORDS: run decode with the teacher.
teach() {
    local words=(--teacher-folder "$teacher_folder" --family "$family" --strategy beam --beam 5 ${cpu[@]+"${cpu[@]}"})
    [ -z "$teacher_source_lang" ] || words+=(--teacher-source-lang "$teacher_source_lang")
    [ -z "$teacher_target_lang" ] || words+=(--teacher-target-lang "$teacher_target_lang")
    [ -z "$dtype" ] || words+=(--dtype "$dtype")
    "$fairseq_kd" decode "${@:2}" "${words[@]}" --out "$out/$1"
}

# teacher_lines: the teacher's translations of the test set as text, an empty line where it has no answer.
teacher_lines() {
    awk -F '\t' '$3 == "*" { gsub(/ /, "", $6); gsub(/▁/, " ", $6); sub(/^ /, "", $6); print $4 == "" ? "" : $6 }' \
        "$out/teacher-test/test.hypotheses.$target_lang.tsv"
}

# newest: the newest checkpoint. fairseq gives a checkpoint of these names its name when it is complete.
newest() {
    local path place
    for path in "$out"/checkpoints/checkpoint[0-9]*.pt "$out"/checkpoints/checkpoint_[0-9]*_[0-9]*.pt; do
        place=${path##*/checkpoint}
        place=${place%.pt}
        case $place in
            *'*'*) ;; # there is none
            _*_*) place=${place#_} && echo "${place%_*} ${place#*_} $path" ;;
            *) echo "$place 999999999999 $path" ;; # the end of an epoch
        esac
    done | sort -n -k 1,1 -k 2,2 | tail -n 1 | cut -d ' ' -f 3-
}

# train SHAPE: train the student of this shape, or continue its training, and copy its last checkpoint to student.pt.
train() {
    local begun words
    begun=$(newest)
    words=(--user-dir "$("$fairseq_kd" user-dir)" "$@" --share-all-embeddings --source-lang "$source_lang" --target-lang "$target_lang")
    words+=(--criterion label_smoothed_cross_entropy --label-smoothing 0.1 --dropout 0.1 --weight-decay 0.0001 --seed 1)
    words+=(--optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --max-tokens 4096 --required-batch-size-multiple 1)
    words+=(--lr 0.003 --lr-scheduler polynomial_decay --warmup-updates $((max_update / 20)) --update-epoch-batch-itr True)
    words+=(--total-num-update "$max_update" --max-update "$max_update" --save-interval-updates $((max_update / 10)))
    words+=(--save-dir "$out/checkpoints" --no-last-checkpoints --keep-interval-updates 1 --keep-last-epochs 1)
    words+=(--log-format simple --log-interval 100 ${cpu[@]+"${cpu[@]}"} ${begun:+--restore-file "$begun"} ${training[@]+"${training[@]}"})
    "$fairseq_train" "$out/mixed" "${words[@]}" 2>&1 | tee -a "$out/train.log" | awk '/\| (train_inner|valid) \|/ { print; fflush() }' ||
        { tail -n 15 "$out/train.log" >&2 && stop "fairseq-train has failed: above is the end of $out/train.log"; }
    cp "$(newest)" "$out/student.pt.part"
    mv "$out/student.pt.part" "$out/student.pt"
}

# score_teacher: the scores of the teacher by the tokeniser that `evaluate` took for the student.
score_teacher() {
    local tokeniser
    tokeniser=$(sed -n 's/.*|tok:\([^|]*\)|.*/\1/p' "$out/student.txt" | head -n 1)
    case $tokeniser in
        ja-mecab* | ko-mecab*) tokeniser=${tokeniser:0:8} ;; # without the version
    esac
    "$sacrebleu" "$out/data/raw/test.$target_lang" -i "$out/teacher.lines" -m bleu chrf -tok "$tokeniser" -f text
}

report() {
    echo "Teacher ($teacher_folder), test set, beam 5:" && cat "$out/teacher.txt"
    echo && echo "Student ($out/student.pt), test set, beam 5:" && cat "$out/student.txt"
    echo && echo "Exported student ($out/student-int8):" && cat "$out/export.txt"
    echo && echo "First sentence of the test set, and its translation by the exported student:"
    cat "$out/sentence.txt" "$out/translation.txt"
}

start "$@"
read_options "$@"
fairseq_train=$(beside fairseq-train)
sacrebleu=$(beside sacrebleu)
check_same "$raw" "$source_lang" "$target_lang" "$teacher_folder" "$family" "$teacher_source_lang" "$teacher_target_lang" \
    ${texts[@]+"${texts[@]}"} "$parameters" "$vocab_size" "$max_update" "$dtype" ${training[@]+"${training[@]}"}
"$fairseq_kd" prepare text --raw "$raw" --source-lang "$source_lang" --target-lang "$target_lang" --vocab-size "$vocab_size" --out "$out/data"
teach teacher-test "$out/data" --subset test
keep "$out/teacher.lines" teacher_lines
echo "The first sentences of the test set, and what the teacher makes of them:"
head -n 3 "$out/data/raw/test.$source_lang" "$out/teacher.lines"

filters=(--fallback drop --max-repeats 1 --max-length-deviation 5)
teach distilled "$out/data" "${filters[@]}"
parts=("$out/data" "$out/distilled")
if [ ${#texts[@]} -gt 0 ]; then
    teach text --source-text "${texts[@]}" --like "$out/data" "${filters[@]}"
    parts+=("$out/text")
fi
"$fairseq_kd" mix "${parts[@]}" --out "$out/mixed"

keep "$out/size.txt" "$fairseq_kd" count --arch kd_student --parameters "$parameters" --data "$out/data"
read -r -a shape < "$out/size.txt"
[ -f "$out/student.pt" ] || train "${shape[@]}"

keep "$out/student.txt" "$fairseq_kd" evaluate "$out/data" --checkpoint "$out/student.pt" --out "$out/student.json" ${cpu[@]+"${cpu[@]}"}
keep "$out/teacher.txt" score_teacher
keep "$out/export.txt" "$fairseq_kd" export "$out/student.pt" --to ctranslate2 --quantize int8 --data "$out/data" --out "$out/student-int8" ${cpu[@]+"${cpu[@]}"}
keep "$out/sentence.txt" head -n 1 "$out/data/raw/test.$source_lang"
keep "$out/translation.txt" "$fairseq_kd" translate "$out/student-int8" "$out/sentence.txt" ${cpu[@]+"${cpu[@]}"}
keep "$out/report.txt" report
cat "$out/report.txt"
echo "wrote $out/report.txt"
