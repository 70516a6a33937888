#!/bin/sh
# run.sh - all tests of `make test`, from the top of the tree, after make has built what they need.
# Last line: N passed, N failed (, N skipped). Exit status 1 if anything failed.
shared=../shared
out=build/tests/out
rm -rf $out
mkdir -p $out
passed=0
failed=0
skipped=0

# Adds the counts of a program's last line to ours.
count() { # name, log, exit status
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$2" | tail -n 1)
    if [ -z "$line" ]; then
        echo "FAIL $1: no result line (exit status $3)"
        tail -n 5 "$2"
        failed=$((failed + 1))
        return
    fi
    p=${line%% passed*}
    rest=${line#*passed, }
    f=${rest%% failed*}
    passed=$((passed + p))
    failed=$((failed + f))
    case $line in *skipped*) rest=${line##*, }; skipped=$((skipped + ${rest%% *})) ;; esac
    if [ "$f" != 0 ] || [ "$3" != 0 ]; then
        grep -vE '^(ok|skip) ' "$2" | tail -n 40
        [ "$f" = 0 ] && failed=$((failed + 1))
    fi
    echo "$1: $line"
}
program() { # name, command...
    name=$1
    shift
    "$@" >$out/log 2>&1
    count "$name" $out/log $?
}
program "unit tests" build/tests/test
program "hostile input" build/tests/badinput
program "formats" build/tests/formats
program "torch files" build/tests/torch
program "GGUF and llama2.c" build/tests/gguf
program "TensorBoard events" build/tests/tensorboard
program "reports" build/tests/report
# the official test of normal forms, where the system has it (Debian: unicode-data)
nfc=
for f in /usr/share/unicode/NormalizationTest.txt /usr/share/unicode/NormalizationTest.txt.bz2; do
    case $f in
    *.bz2) [ -r $f ] && bzcat $f >$out/nfc.txt 2>/dev/null && nfc=$out/nfc.txt ;;
    *) [ -r $f ] && nfc=$f ;;
    esac
done
program "tokenizers" build/tests/tokenizers "$([ -d $shared/data ] && echo $shared/data)" $nfc
program "golden cases" build/tests/golden tests/golden/v*/
program "golden cases in mixed precision" build/tests/golden --precision mixed tests/golden/v*/
if [ -d $shared/golden ]; then
    program "golden cases beside the checkout" build/tests/golden $shared/golden/*/
    program "the same in mixed precision" build/tests/golden --precision mixed $shared/golden/*/
    program "the same in bf16" build/tests/golden --precision bf16 $shared/golden/*/
else
    echo "skipped: no $shared/golden beside the checkout"
fi
if [ -d $shared/data/stories260K ]; then
    mkdir -p $out/stories
    program "a pretrained model's published text" build/tests/stories $shared/data/stories260K $out/stories
else
    echo "skipped: no $shared/data/stories260K beside the checkout"
fi
if [ -f $out/stories/model.safetensors ]; then
    program "evaluation" build/tests/eval $shared/data $out/stories "${EVAL_ITEMS:-20}" # of each task, up to 570
else
    program "evaluation" build/tests/eval
fi
program "symbols" sh tests/symbols.sh "${CC:-cc}"
program "layout" sh tests/check_layout.sh
program "translation units" sh tests/units.sh
program "programs" sh tests/programs.sh $shared $out
program "stopped runs" build/tests/resume build/dpo-train $out/resume 60
program "win rates" sh tests/test_judge.sh $out
program "the study" sh tests/study.sh $shared $out

# A report of two runs that the programs' test has made: everything that dpo-train writes is known to it.
if build/dpo-report $out/programs/dpo $out/programs/lora --output $out/report.html >$out/log 2>$out/said && ! [ -s $out/said ]; then
    passed=$((passed + 1))
else
    failed=$((failed + 1))
    echo "FAIL a report of dpo-train's runs"
    cat $out/said
fi

# The examples end in a line that their first comment states.
for e in hello sft dpo lora step own_loss own_data layers; do
    want=$(sed -n 's/^.*Last line: \(.*\) \*\/$/\1/p' examples/$e.c | head -n 1)
    got=$(build/$e 2>$out/log | tail -n 1)
    if [ -n "$want" ] && [ "$want" = "$got" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL examples/$e.c: expected last line '$want', got '$got'"
    fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
