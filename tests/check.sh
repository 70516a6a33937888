#!/bin/sh
# check.sh - the long checks of `make check`: compilers and standards, every option, sanitizers, valgrind, formatting.
# What a machine has not got is skipped in a line. Last line: N passed, N failed, N skipped.
out=build/check
warn="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror"
rm -rf $out
mkdir -p $out
lacking=
passed=0
failed=0
skipped=0
check() { # name, command...
    name=$1
    shift
    if "$@" >$out/log 2>&1; then
        passed=$((passed + 1))
        echo "ok   $name"
    else
        failed=$((failed + 1))
        echo "FAIL $name"
        tail -n 20 $out/log
    fi
}
skip() {
    skipped=$((skipped + 1))
    echo "skip $1"
}
has() { command -v "$1" >/dev/null 2>&1; }
printf '#define DPO_IMPLEMENTATION\n#include "dpo.h"\n' >$out/unit.c
cp $out/unit.c $out/unit.cpp

# 0 warnings, whatever compiles it.
for cc in gcc clang; do
    if ! has $cc; then skip "$cc"; continue; fi
    for std in c11 gnu17; do check "$cc -std=$std" $cc -std=$std -O0 $warn -I. -c $out/unit.c -o $out/unit.o; done
    check "$cc -O3 -march=native -std=gnu17" $cc -std=gnu17 -O3 -march=native $warn -I. -c $out/unit.c -o $out/native-$cc.o
    check "$cc -O2 -std=c99" $cc -std=c99 -O2 $warn -I. -c $out/unit.c -o $out/plain-$cc.o
done
for cxx in g++ clang++; do
    if ! has $cxx; then skip "$cxx"; continue; fi
    check "$cxx -std=c++17" $cxx -std=c++17 -O0 $warn -I. -c $out/unit.cpp -o $out/unit.o
done
cat >$out/option.c <<'C'
#define DPO_IMPLEMENTATION
#include "dpo.h"
int main(int argc, char **argv) { return argc < 2 || !strstr(dpo_build_info(NULL), argv[1]); }
C
for option in DPO_NO_STDIO DPO_NO_THREADS DPO_NO_SIMD DPO_STATIC; do
    check "option $option" ${CC:-cc} -std=c99 -O0 $warn -I. -D$option $out/option.c -o $out/option -lm -lpthread
    check "option $option is in the build info" $out/option $option
done

# The same bits from every build, set of instructions and number of threads: SFT and DPO, whole and by adapters, in
# fp32, mixed and bf16, twenty updates each.
bits() { # program, arguments...
    "$@" >>$out/hashes 2>/dev/null
    status=$?
    if [ $status = 2 ]; then case $lacking in *$2*) ;; *) lacking="$lacking $2" ;; esac; fi # this CPU has not got them
    [ $status = 0 ] || [ $status = 2 ] || echo "$*: exit status $status" >>$out/hashes
}
for unit in plain-gcc plain-clang native-gcc native-clang; do
    [ -f $out/$unit.o ] || continue
    ${CC:-cc} -std=c99 -O1 tests/bits.c $out/$unit.o -o $out/bits -lm -lpthread || echo "$unit does not link" >>$out/hashes
    bits $out/bits 1 2
    for simd in 2 3 4; do bits $out/bits $simd 2; done
done
if [ -x $out/bits ]; then for threads in 1 3 5; do bits $out/bits 0 $threads; done; fi
also=
if has aarch64-linux-gnu-gcc && has qemu-aarch64 &&
    aarch64-linux-gnu-gcc -std=c99 -O2 -static -DDPO_IMPLEMENTATION tests/bits.c -o $out/bits-aarch64 -lm -lpthread 2>$out/log; then
    bits qemu-aarch64 $out/bits-aarch64 0 2
    also=", aarch64 (qemu)"
else
    skip "the same bits on aarch64: no cross compiler or no qemu-aarch64"
fi
sh tests/simde.sh tests/bits.c >$out/simde 2>&1
if grep -q "1 skipped" $out/simde; then
    skip "AVX-512 kernels in emulation: no SIMDe"
else
    check "AVX-512 kernels in emulation: $(tail -n 1 $out/simde)" sh -c "tail -n 1 $out/simde | grep -q ' 0 failed'"
    cat build/simde/hashes >>$out/hashes
    also="$also, AVX-512 and AVX512-BF16 in emulation"
fi
sort -u $out/hashes >$out/distinct
check "the same bits from gcc and clang, -O2 and -O3 -march=native, threads, every SIMD path${lacking:+ (this CPU lacks:$lacking)}$also" \
    test "$(wc -l <$out/distinct)" = 1
cat $out/distinct

# Stopped runs: every stop of every kind of run, and a thousand dead processes.
check "the unit tests' program" make -s build/tests/test build/tests/resume
check "training goes on from each of 59 stops in 12 kinds of runs" env DPO_TEST_LONG=1 build/tests/test checkpoint_resume
check "four hundred processes killed, none lost" build/tests/resume build/dpo-train $out/killed 400

# Sanitizers over everything that `make test` runs.
san="-std=c99 -O1 -g0 -fsanitize=address,undefined -fno-sanitize-recover=all"
sancc=clang # gcc is the quicker one: clang works on the kernels for many minutes
if has gcc; then sancc=gcc; fi
check "sanitizer build ($sancc)" $sancc $san -I. -c $out/unit.c -o $out/san.o
for t in golden badinput; do check "sanitizer build of $t" $sancc $san tests/$t.c $out/san.o -o $out/$t -lm -lpthread; done
check "sanitizer build of test" $sancc $san tests/test.c -o $out/test -lm -lpthread
check "unit tests under ASan and UBSan" $out/test
check "hostile input under ASan and UBSan" $out/badinput
check "golden cases under ASan and UBSan" $out/golden tests/golden/v*/
for t in formats tokenizers torch gguf tensorboard report eval; do
    check "sanitizer build of $t" $sancc $san tests/test_$t.c $out/san.o -o $out/$t -lm -lpthread
    check "$t under ASan and UBSan" $out/$t
done
programs="dpo-train dpo-tokenize dpo-chat dpo-convert dpo-judge dpo-report dpo-eval dpo-bench"
for t in $programs; do check "sanitizer build of $t" $sancc $san tools/$t.c $out/san.o -o $out/$t -lm -lpthread; done
# The study over the header as it is: that is looked into above, and would take minutes here.
check "sanitizer build of the study" $sancc $san examples/study.c build/dpo.o -o $out/study -lm -lpthread
check "the study on next to nothing under ASan and UBSan" $out/study --smoke --output $out/studied
mkdir -p $out/tree/build
for d in tests tools examples; do [ -e $out/tree/$d ] || ln -s "$(pwd)/$d" $out/tree/$d; done
for t in $programs; do cp $out/$t $out/tree/build/; done
check "processes killed under ASan and UBSan" build/tests/resume $out/dpo-train $out/killed 60
check "programs under ASan and UBSan" sh -c "cd $out/tree && sh tests/programs.sh none build"
check "win rates under ASan and UBSan" sh -c "cd $out/tree && sh tests/test_judge.sh build"

if has valgrind; then
    cat >$out/tiny.json <<'J'
{"model_type": "gpt2", "vocab_size": 257, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "eos_token_id": 256,
 "dpo_tokenizer": "bytes"}
J
    i=0
    while [ $i -lt 6 ]; do echo "{\"prompt\": \"Q$i\", \"chosen\": \" yes $i\", \"rejected\": \" no\"}"; i=$((i + 1)); done >$out/pairs.jsonl
    check "valgrind on a small training run" valgrind -q --error-exitcode=9 --leak-check=full build/dpo-train dpo --init $out/tiny.json \
        --train $out/pairs.jsonl --output $out/vg --batch-size 3 --max-length 32 --max-prompt-length 16 --eval-fraction 0
else
    skip "valgrind"
fi
# The tables of section UNICODE are what the generator makes of the database they name.
if head -n 1 /usr/share/unicode/PropList.txt 2>/dev/null | grep -q "PropList-15.0"; then
    check "make-unicode builds" ${CC:-cc} -std=c99 -O1 $warn tools/make-unicode.c -o $out/make-unicode
    $out/make-unicode /usr/share/unicode >$out/tables
    sed -n '/generated by tools.make-unicode/,/end of the generated tables/p' dpo.h | sed '1d;$d' >$out/tables.h
    check "the tables of section UNICODE" cmp $out/tables $out/tables.h
else
    skip "the tables of section UNICODE: no Unicode 15.0 database"
fi
if has clang-format; then
    check "clang-format" clang-format --dry-run -Werror dpo.h tools/*.c tools/*.h tools/formats/*.h examples/*.c examples/*.h tests/*.c tests/*.h tests/interop/*.c
else
    skip "clang-format"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
