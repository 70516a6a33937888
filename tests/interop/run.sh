#!/bin/sh
# run.sh - `make interop`: files that PyTorch writes are read here, files written here are read by PyTorch.
# PYTHON names an interpreter that has torch; without one nothing is tested, in a line. Last line: N passed, N failed.
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE
oracle=../shared/oracle
out=build/tests/interop
python=
for p in ${PYTHON:-python3 /usr/bin/python3}; do
    if "$p" -c 'import torch' 2>/dev/null; then
        python=$p
        break
    fi
done
if [ -z "$python" ]; then
    echo "skipped: no Python with PyTorch; PYTHON=... names one"
    echo "0 passed, 0 failed"
    exit 0
fi
rm -rf $out
mkdir -p $out
passed=0
failed=0
script() { # name, arguments...
    name=$1
    shift
    "$python" tests/interop/"$name".py "$@" >$out/log 2>&1
    status=$?
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' $out/log | tail -n 1)
    f=${line#* passed, }
    f=${f% failed}
    if [ -z "$line" ]; then
        line="no result line (exit status $status)"
        f=1
    else
        passed=$((passed + ${line%% *}))
        [ $status != 0 ] && [ "$f" = 0 ] && f=1
    fi
    failed=$((failed + f))
    grep -vE '^[0-9]+ passed' $out/log | tail -n 40
    echo "$name: $line"
}
script files build/tests/interop-dump $out
script cases build/tests/golden $out tests/golden/v*
if [ -d $oracle/oracle ]; then
    script models build/dpo-train build/tests/interop-dump $out $oracle
else
    echo "skipped: models written here against an oracle, which is not in $oracle"
fi
rm -rf $out
echo "$passed passed, $failed failed"
[ $failed = 0 ]
