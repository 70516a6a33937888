#!/bin/sh
# simde.sh - runs the AVX-512 and AVX512-BF16 kernels on a CPU that has only AVX2, emulated by libsimde-dev.
# usage: tests/simde.sh [program.c]    The tests of matrix products and row kernels run on a changed copy of dpo.h; the
# program (it takes a SIMD path's number, and prints a hash) must print the same for paths 1 to 4.
# Last line: N passed, N failed (, 1 skipped).
out=build/simde
if [ ! -r /usr/include/simde/x86/avx512.h ] || ! grep -q avx2 /proc/cpuinfo 2>/dev/null; then
    echo "skipped: no SIMDe, or no AVX2"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
rm -rf $out
mkdir -p $out/tests
ln -s "$(pwd)/tools" "$(pwd)/examples" $out/
sed -e 's|#include <immintrin.h>|#include "tests/simde_shim.h"|' -e 's/target("avx2,fma,avx512[^"]*")/target("avx2,fma")/' \
    -e 's/__builtin_cpu_supports("avx512[a-z0-9]*")/1/g' -e 's/(__m512bh)//g' dpo.h >$out/dpo.h
for t in tests/*.h tests/test.c; do ln -s "$(pwd)/$t" $out/tests/; done
cp tests/test.c $out/tests/main.c
flags="-std=gnu11 -O1 -mavx2 -mfma -ffp-contract=off -w -I$out"
passed=0
failed=0
check() { # name, command...
    name=$1
    shift
    if "$@" >$out/log 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $name"
        tail -n 20 $out/log
    fi
}
check "test builds" ${CC:-cc} $flags $out/tests/main.c -o $out/test -lm -lpthread
for t in gemm kernels; do check "test $t" $out/test $t; done
if [ -n "$1" ]; then
    check "dpo.h builds" ${CC:-cc} $flags -DDPO_IMPLEMENTATION -x c -c $out/dpo.h -o $out/dpo.o
    check "program builds" ${CC:-cc} $flags "$1" $out/dpo.o -o $out/program -lm -lpthread
    for simd in 1 2 3 4; do $out/program $simd || echo "path $simd: exit status $?"; done | sort -u >$out/hashes
    check "the same bits from scalar, AVX2, AVX-512 and AVX512-BF16: $(tr '\n' ' ' <$out/hashes)" test "$(wc -l <$out/hashes)" = 1
    cat $out/hashes
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
