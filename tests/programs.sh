#!/bin/sh
# programs.sh - build/dpo-train from the outside: right and wrong command lines, what lies in the output directory,
# the same bits for any number of threads, an interrupt. usage: programs.sh SHARED OUT. Last line: N passed, N failed.
shared=$1
out=$2/programs
train=build/dpo-train
rm -rf "$out"
mkdir -p "$out"
passed=0
failed=0
ok() { passed=$((passed + 1)); }
bad() {
    failed=$((failed + 1))
    echo "FAILED $1"
    tail -n 3 "$out/err"
}
# A wrong command must exit with 1, say one sentence that begins with the program's name and holds a word.
refuses() { # name, word, command...
    name=$1
    word=$2
    shift 2
    "$@" >"$out/log" 2>"$out/err" </dev/null
    status=$?
    if [ $status = 1 ] && tail -n 1 "$out/err" | grep -q "^dpo-train: .*$word"; then ok; else bad "$name (status $status)"; fi
}
works() { # name, command...
    name=$1
    shift
    if "$@" >"$out/log" 2>"$out/err" </dev/null; then ok; else bad "$name"; fi
}
has() { # name, file...
    name=$1
    shift
    for f in "$@"; do [ -s "$f" ] || { bad "$name: no $f"; return; }; done
    ok
}
hash_of() { sed -n 's/.*\([0-9a-f]\{16\}\).*/\1/p' "$1" | tail -n 1; }

# A small model and forty pairs.
cat >"$out/tiny.json" <<'J'
{"model_type": "gpt_neox", "vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
 "intermediate_size": 64, "max_position_embeddings": 256, "rotary_pct": 0.5, "hidden_act": "gelu",
 "tie_word_embeddings": false, "eos_token_id": 256, "dpo_tokenizer": "bytes"}
J
i=0
while [ $i -lt 40 ]; do
    echo "{\"prompt\": \"What is $i and one?\", \"chosen\": \" It is $((i + 1)).\", \"rejected\": \" No idea, ask $i.\"}"
    i=$((i + 1))
done >"$out/pairs.jsonl"
o="--train $out/pairs.jsonl --batch-size 8 --learning-rate 1e-3 --optimizer adamw --warmup-steps 0 --eval-fraction 0.2"

works "sft from random weights" $train sft --init "$out/tiny.json" --output "$out/sft" $o --threads 1
has "sft writes a model" "$out/sft/config.json" "$out/sft/model.safetensors" "$out/sft/metrics.jsonl"
one=$(hash_of "$out/log")
works "the same with three threads, scalar kernels" $train sft --init "$out/tiny.json" --output "$out/sft3" $o --threads 3 --simd scalar
three=$(hash_of "$out/log")
if [ -n "$one" ] && [ "$one" = "$three" ] && cmp -s "$out/sft/model.safetensors" "$out/sft3/model.safetensors"; then ok; else
    bad "threads and kernels give the same bits ($one, $three)"
fi
works "dpo" $train dpo --model "$out/sft" --output "$out/dpo" $o --epochs 2
grep -q '"eval_rewards/accuracies"' "$out/dpo/metrics.jsonl" && ok || bad "dpo's metrics have eval_rewards/accuracies"
head -n 1 "$out/dpo/metrics.jsonl" | grep -q '"eval_rewards/margins": 0,' && ok || bad "policy = reference: margins are exactly 0"
works "dpo with adapters" $train dpo --model "$out/sft" --output "$out/lora" $o --lora-r 4 --lora-targets query_key_value,dense
has "adapters are written as PEFT's files" "$out/lora/adapter/adapter_config.json" "$out/lora/adapter/adapter_model.safetensors"
works "a plan" $train dpo --model "$out/sft" --output "$out/none" $o --plan
[ -e "$out/none/model.safetensors" ] && bad "a plan writes no model" || ok
works "reference log-probs are kept" $train dpo --model "$out/sft" --output "$out/r1" $o --reference-file "$out/ref.safetensors"
works "and used again" $train dpo --model "$out/sft" --output "$out/r2" $o --reference-file "$out/ref.safetensors"
cmp -s "$out/r1/model.safetensors" "$out/r2/model.safetensors" && ok || bad "a kept reference gives the same bits"
works "TRL's option names" $train dpo --model_name_or_path "$out/sft" --output_dir "$out/trl" --train "$out/pairs.jsonl" \
    --per_device_train_batch_size 2 --gradient_accumulation_steps 4 --learning_rate 1e-3 --max_steps 2

# wrong ones
refuses "no command" "sft" $train
refuses "no model" "model" $train sft --output "$out/x" $o
refuses "unknown option" "did you mean" $train sft --init "$out/tiny.json" --output "$out/x" $o --batch-sise 3
refuses "lr NaN" "learning-rate" $train sft --init "$out/tiny.json" --output "$out/x" $o --learning-rate nan
refuses "lr negative" "learning-rate" $train sft --init "$out/tiny.json" --output "$out/x" $o --learning-rate -1
refuses "beta negative" "beta" $train dpo --model "$out/sft" --output "$out/x" $o --beta -0.1
refuses "beta NaN" "beta" $train dpo --model "$out/sft" --output "$out/x" $o --beta nan
refuses "bf16 is for later" "fp32" $train sft --init "$out/tiny.json" --output "$out/x" $o --precision bf16
refuses "missing data" "missing.jsonl" $train sft --init "$out/tiny.json" --output "$out/x" --train "$out/missing.jsonl"
refuses "missing model" "nowhere" $train dpo --model "$out/nowhere" --output "$out/x" $o
refuses "missing configuration" "none.json" $train sft --init "$out/none.json" --output "$out/x" $o
refuses "output under a file" "pairs.jsonl" $train sft --init "$out/tiny.json" --output "$out/pairs.jsonl/x" $o
mkdir -p "$out/cut"
cp "$out/sft/config.json" "$out/cut/"
head -c 5000 "$out/sft/model.safetensors" >"$out/cut/model.safetensors"
refuses "a cut model" "cut/model.safetensors" $train dpo --model "$out/cut" --output "$out/x" $o
printf '\037\213\010\000\000\000\000\000\000\003\113' >"$out/cut.gz"
refuses "a cut gzip" "cut.gz" $train sft --init "$out/tiny.json" --output "$out/x" --train "$out/cut.gz"
echo "this is not JSON" >"$out/bad.jsonl"
refuses "no rows" "bad.jsonl" $train dpo --model "$out/sft" --output "$out/x" --train "$out/bad.jsonl" --format pairs
refuses "a huge learning rate" "learning-rate" $train sft --init "$out/tiny.json" --output "$out/x" $o --learning-rate 1e5
[ -e "$out/x/model.safetensors" ] && bad "a refused run leaves no model" || ok

# An interrupt writes the model and exits with 0.
$train sft --init "$out/tiny.json" --output "$out/stop" $o --epochs 100000 >"$out/log" 2>"$out/err" </dev/null &
pid=$!
n=0
while [ $n -lt 100 ] && ! grep -q '"loss"' "$out/stop/metrics.jsonl" 2>/dev/null; do sleep 0.1; n=$((n + 1)); done
kill -INT $pid
wait $pid && ok || bad "an interrupted run exits with 0"
has "an interrupted run writes its model" "$out/stop/model.safetensors"

if [ -f "$shared/data/hh/harmless-base.test.jsonl.gz" ]; then
    works "Anthropic-HH as it is, gzip and all" $train sft --init "$out/tiny.json" --output "$out/hh" \
        --train "$shared/data/hh/harmless-base.test.jsonl.gz" --max-length 64 --max-prompt-length 32 --max-steps 2 --eval-size 16
    grep -q "2,312 rows" "$out/err" "$out/log" && ok || bad "HH: 2,312 rows are read"
else
    echo "skipped: no HH data beside the checkout"
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
