#!/bin/sh
# study.sh - build/study/study on next to nothing: it runs through, and what was interrupted ends with the same bits; all
# of its findings reach the page. With the shared data also on a given model. From the top of the tree.
# usage: study.sh SHARED OUT     Last line: N passed, N failed.
shared=$1
out=$2/study
passed=0
failed=0
ok() { # name, exit status
    if [ "$2" = 0 ]; then
        passed=$((passed + 1))
        echo "ok   $1"
    else
        failed=$((failed + 1))
        echo "FAIL $1"
    fi
}
rm -rf "$out"
mkdir -p "$out"
study=build/study/study

$study --smoke --output "$out/a" >"$out/log" 2>&1
ok "it runs through" $?
[ "$(grep -c '"verdict"' "$out/a/study.json")" = 11 ]
ok "six tables, four figures and the claim" $?

# Stopped in the middle of its first stage, and after some; started again each time, on another number of threads.
done_stages() { ls "$out"/b/cache/*/result.json 2>/dev/null | wc -l; }
stop_when() { # a function that says nothing until then
    $study --smoke --threads 1 --output "$out/b" >"$out/log" 2>&1 &
    while kill -0 $! 2>/dev/null && [ -z "$($1)" ]; do sleep 0.05; done
    kill -TERM $! 2>/dev/null
    wait $!
}
begun() { ls "$out"/b/cache/*/checkpoint.safetensors 2>/dev/null; }
six() { [ "$(done_stages)" -lt 6 ] || echo yes; }
for try in 1 2 3 4 5; do # a machine that is busy may let the stage end before the signal comes
    rm -rf "$out/b"
    stop_when begun
    [ "$(done_stages)" = 0 ] && break
done
[ "$(done_stages)" = 0 ]
ok "it stops in its first stage" $?
stop_when six
[ "$(done_stages)" -ge 6 ] && [ "$(done_stages)" -lt 21 ]
ok "it stops when it is asked to" $?
$study --smoke --output "$out/b" >"$out/log" 2>&1
ok "it goes on" $?
grep -q ' done$' "$out/log"
ok "what was done is not done again" $?
cmp "$out/a/study.json" "$out/b/study.json"
ok "interrupted, it ends with the same bits" $?
$study --smoke --output "$out/b" >"$out/log" 2>&1 && grep -q '^0 of 21 stages to do' "$out/log"
ok "nothing is left to do" $?

build/dpo-report "$out"/a/runs/dpo-hh-beta-* --study "$out/a/study.json" --output "$out/report.html" >"$out/log" 2>&1
ok "a page of it" $?
[ "$(grep -c 'Claim: ' "$out/report.html")" = 11 ] && grep -q 'published: Pythia' "$out/report.html"
ok "all exhibits stand on the page" $?

$study --smoke --model nowhere --output "$out/c" >"$out/log" 2>&1
[ $? = 1 ] && grep -q -e '--model and --data go together' "$out/log"
ok "a model without data is refused" $?

if [ -d "$shared/data/hh" ] && [ -d "$shared/data/stories260K" ]; then
    build/dpo-convert "$shared/data/stories260K/stories260K.bin" "$out/model" \
        --tokenizer "$shared/data/stories260K/tok512.bin" >"$out/log" 2>&1 &&
        $study --smoke --model "$out/model" --data "$shared/data" --output "$out/d" >"$out/log" 2>&1
    ok "a given model and real data" $?
    grep -q '"helpful", "0.3", ".*+0.0171"' "$out/d/study.json"
    ok "forgetting beside the published numbers" $?
else
    echo "skip no $shared/data beside the checkout"
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
