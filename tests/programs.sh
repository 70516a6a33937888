#!/bin/sh
# programs.sh - build/dpo-train and build/dpo-tokenize from the outside: right and wrong command lines, what lies in the output directory,
# the same bits for any number of threads, an interrupt. usage: programs.sh SHARED OUT. Last line: N passed, N failed.
shared=$1
out=$2/programs
train=build/dpo-train
tokenize=build/dpo-tokenize
chat=build/dpo-chat
convert=build/dpo-convert
rm -rf "$out"
mkdir -p "$out"
. tests/shell.sh
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
works "adapters in bf16" $train dpo --model "$out/sft" --output "$out/lora16" $o --lora-r 4 --precision bf16
has "adapters are written as PEFT's files" "$out/lora/adapter/adapter_config.json" "$out/lora/adapter/adapter_model.safetensors"
works "a plan" $train dpo --model "$out/sft" --output "$out/none" $o --plan
[ -e "$out/none/model.safetensors" ] && bad "a plan writes no model" || ok
works "reference log-probs are kept" $train dpo --model "$out/sft" --output "$out/r1" $o --reference-file "$out/ref.safetensors"
works "and used again" $train dpo --model "$out/sft" --output "$out/r2" $o --reference-file "$out/ref.safetensors"
cmp -s "$out/r1/model.safetensors" "$out/r2/model.safetensors" && ok || bad "a kept reference gives the same bits"
works "TRL's option names" $train dpo --model_name_or_path "$out/sft" --output_dir "$out/trl" --train "$out/pairs.jsonl" \
    --per_device_train_batch_size 2 --gradient_accumulation_steps 4 --learning_rate 1e-3 --max_steps 2

for p in mixed bf16; do
    works "$p precision" $train dpo --model "$out/sft" --output "$out/$p" $o --precision $p --optimizer-dtype bf16
    same=$(hash_of "$out/log")
    works "$p precision within 7 MB" $train dpo --model "$out/sft" --output "$out/$p-small" $o --precision $p --optimizer-dtype bf16 \
        --memory 7M --threads 2
    [ -n "$same" ] && [ "$same" = "$(hash_of "$out/log")" ] && ok || bad "a budget of memory changes no bit ($p)"
done
# wrong ones
refuses "no command" "sft" $train
refuses "no model" "model" $train sft --output "$out/x" $o
refuses "unknown option" "did you mean" $train sft --init "$out/tiny.json" --output "$out/x" $o --batch-sise 3
refuses "lr NaN" "learning-rate" $train sft --init "$out/tiny.json" --output "$out/x" $o --learning-rate nan
refuses "lr negative" "learning-rate" $train sft --init "$out/tiny.json" --output "$out/x" $o --learning-rate -1
refuses "beta negative" "beta" $train dpo --model "$out/sft" --output "$out/x" $o --beta -0.1
refuses "beta NaN" "beta" $train dpo --model "$out/sft" --output "$out/x" $o --beta nan
refuses "a budget that cannot hold the model" "least that this takes" $train dpo --model "$out/sft" --output "$out/x" $o --memory 2M
refuses "2000 threads" "threads" $train dpo --model "$out/sft" --output "$out/x" $o --threads 2000
refuses "-1 threads" "threads" $train dpo --model "$out/sft" --output "$out/x" $o --threads -1
refuses "instructions that no CPU has together" "instructions" $train dpo --model "$out/sft" --output "$out/x" $o \
    --simd "$(uname -m | grep -q x86 && echo neon || echo avx2)"
refuses "fp16" "mixed" $train sft --init "$out/tiny.json" --output "$out/x" $o --precision fp16
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

# dpo-tokenize
printf 'A line, \303\244\n\000 and \377 more' >"$out/text"
$tokenize encode --tokenizer bytes <"$out/text" >"$out/ids" 2>"$out/err" && $tokenize decode --tokenizer bytes <"$out/ids" >"$out/back" &&
    cmp -s "$out/text" "$out/back" && ok || bad "decode gives the bytes back that encode took"
printf '{"text": "one"}\n{"text": "t\\u00e4t\\u0000"}\n' >"$out/text.jsonl"
$tokenize encode --jsonl --tokenizer bytes <"$out/text.jsonl" >"$out/ids.jsonl" 2>"$out/err"
[ "$(head -n 1 "$out/ids.jsonl")" = '{"ids": [111, 110, 101]}' ] && ok || bad "encode --jsonl"
[ "$($tokenize decode --jsonl --tokenizer bytes <"$out/ids.jsonl" | head -n 1)" = '{"text": "one"}' ] && ok || bad "decode --jsonl"
[ "$(printf '{"text": "a\377"}\n' | $tokenize encode --jsonl --tokenizer bytes 2>"$out/err")" = '{"ids": [97, 255]}' ] &&
    grep -q "1 text holds bytes that are no UTF-8" "$out/err" && ok || bad "bytes that are no UTF-8 are encoded and said"
printf '{"text": "a"}\n{"no": 1}\n' | $tokenize encode --jsonl --tokenizer bytes >"$out/log" 2>"$out/err"
[ "$(cat "$out/log")" = '{"ids": [97]}' ] && ok || bad "lines before a bad one are encoded"
[ "$(printf x | $tokenize encode --add-special --tokenizer bytes)" = "120 256" ] && ok || bad "encode --add-special"
i=0
while [ $i -lt 10000 ]; do echo "{\"text\": \"line $i\"}"; i=$((i + 1)); done >"$out/long.jsonl"
$tokenize encode --jsonl --tokenizer bytes <"$out/long.jsonl" | $tokenize decode --jsonl --tokenizer bytes | cmp -s - "$out/long.jsonl" && ok ||
    bad "10,000 lines there and back"
printf '{"text": "a"}\n{"text": 5}\n' >"$out/wrong.jsonl"
from() { # file, command...: with the file as standard input
    input=$1
    shift
    "$@" <"$input"
}
fails() { # name, word, file, command...: as refuses, with an input
    name=$1
    word=$2
    shift 2
    from "$@" >"$out/log" 2>"$out/err"
    status=$?
    if [ $status = 1 ] && tail -n 1 "$out/err" | grep -q "^dpo-tokenize: .*$word"; then ok; else bad "$name (status $status)"; fi
}
fails "a line without text" "line 2" "$out/wrong.jsonl" $tokenize encode --jsonl --tokenizer bytes
fails "no ids" "line 1" "$out/wrong.jsonl" $tokenize decode --jsonl --tokenizer bytes
fails "words for ids" "word 1" "$out/text" $tokenize decode --tokenizer bytes
echo "1 2 257" >"$out/beyond"
fails "an id too large" "word 3: 257" "$out/beyond" $tokenize decode --tokenizer bytes
refuses "no tokenizer" "tokenizer" $tokenize encode
refuses "a tokenizer that is not there" "nowhere" $tokenize encode --tokenizer "$out/nowhere"
refuses "no command" "encode" $tokenize
refuses "another command" "enkode" $tokenize enkode --tokenizer bytes
works "tokenized pairs" $tokenize data --tokenizer bytes --train "$out/pairs.jsonl" --objective dpo --output "$out/tokens" \
    --eval-fraction 0.2 --eval-output "$out/tokens.eval" --report "$out/report.json" --show 1
grep -q "target .*end of text" "$out/log" && ok || bad "--show marks targets and the end of text"
grep -q '"longer_wins"' "$out/report.json" && ok || bad "the report is written"
works "what a tokenized file says" $tokenize info "$out/tokens"
grep -q "source_hash" "$out/log" && ok || bad "info shows where it comes from"
works "training on tokenized files" $train dpo --model "$out/sft" --output "$out/t1" --train "$out/tokens" --eval "$out/tokens.eval" \
    --batch-size 8 --learning-rate 1e-3 --optimizer adamw --warmup-steps 0
one=$(hash_of "$out/log")
works "training on the text itself" $train dpo --model "$out/sft" --output "$out/t2" $o
[ -n "$one" ] && [ "$one" = "$(hash_of "$out/log")" ] && ok || bad "tokenized or text: the same bits"
head -c 300 "$out/tokens" >"$out/cut.tokens"
refuses "a cut tokenized file" "cut.tokens" $train dpo --model "$out/sft" --output "$out/x" --train "$out/cut.tokens"
refuses "info of text" "pairs.jsonl" $tokenize info "$out/pairs.jsonl"
refuses "data without a file" "expected --train" $tokenize data --tokenizer bytes
refuses "evaluation without a place" "eval-output" $tokenize data --tokenizer bytes --train "$out/pairs.jsonl" --eval-fraction 0.1 --output "$out/x"
refuses "a fraction above 1" "eval-fraction" $tokenize data --tokenizer bytes --train "$out/pairs.jsonl" --eval-fraction 1.5 --output "$out/x"
refuses "an unknown format" "format" $tokenize data --tokenizer bytes --train "$out/pairs.jsonl" --format rows --output "$out/x"

works "half of a short --max-length is for the prompt" $train dpo --model "$out/sft" --output "$out/none" $o --max-length 30 --plan
refuses "no room for an answer" "max-prompt-length 30 leaves no room" $train dpo --model "$out/sft" --output "$out/x" $o --max-length 30 --max-prompt-length 30
refuses "a directory as data" "is a directory" $tokenize data --tokenizer bytes --train "$out" --output "$out/x"
echo '{"question": "a", "good": "b", "bad": "c"}' >"$out/fields.jsonl"
refuses "unknown fields are named" "its fields are question, good, bad" $tokenize data --tokenizer bytes --train "$out/fields.jsonl" --output "$out/x"
printf '{\n "prompt": "a",\n "response": "b"\n}\n' >"$out/pretty.json"
refuses "an object over several lines" "expected a JSON object on each line" $tokenize data --tokenizer bytes --train "$out/pretty.json" --output "$out/x"
works "tokenized for sft" $tokenize data --tokenizer bytes --train "$out/pairs.jsonl" --objective sft --output "$out/tokens.sft"
refuses "dpo on it" "tokens.sft: example 1 has no rejected answer" $train dpo --model "$out/sft" --output "$out/x" --train "$out/tokens.sft"
works "a format whose end is no piece" $tokenize data --tokenizer bytes --train "$out/pairs.jsonl" --chat-format chatml --output "$out/x.tokens"
grep -q "no id for <|im_end|>" "$out/err" && ok || bad "a format whose end is no piece is spelled, and it says so"
works "rows longer than the model's positions" $tokenize data --tokenizer bytes --train tests/programs.sh --output "$out/long.tokens"
works "they are warned of" $train sft --model "$out/sft" --output "$out/none" --train "$out/long.tokens" --plan
grep -q "512 tokens, the model was made for 256" "$out/err" && ok || bad "rows longer than the model's positions are warned of"
if [ -c /dev/full ]; then
    full() { "$@" >/dev/full 2>"$out/err" </dev/null; [ $? = 1 ] && ok || bad "a full disk: $1 exits with 1"; }
    full $chat --model "$out/sft" --prompt a --max-new-tokens 4
    full $tokenize encode --tokenizer bytes
    full $tokenize data --tokenizer bytes --train "$out/pairs.jsonl" --output "$out/x.tokens"
    mkdir -p "$out/full"
    ln -s /dev/full "$out/full/samples.jsonl"
    refuses "samples on a full disk" "samples.jsonl cannot be written: .*nothing was trained" $train sft --model "$out/sft" --output "$out/full" $o
fi
rm -f "$out/fifo"
mkfifo "$out/fifo"
$tokenize encode --jsonl --tokenizer bytes <"$out/fifo" >"$out/log" 2>"$out/err" &
pid=$!
exec 3>"$out/fifo"
echo '{"text": "a"}' >&3
sleep 0.3
kill -INT $pid
exec 3>&-
wait $pid
[ $? = 1 ] && grep -q "stopped" "$out/err" && ok || bad "an encoding that was stopped exits with 1"

# dpo-chat
says() { # name, pattern, file, command...: with the file as standard input
    name=$1
    word=$2
    shift 2
    if from "$@" >"$out/log" 2>"$out/err" && grep -q "$word" "$out/log"; then ok; else bad "$name"; fi
}
answers="$chat --model $out/sft --max-new-tokens 12 --seed 7"
$answers --prompt abc --n 4 --json >"$out/four" 2>"$out/err" </dev/null
$answers --prompt abc --json >"$out/single" 2>"$out/err" </dev/null
[ "$(head -n 1 "$out/four")" = "$(cat "$out/single")" ] && ok || bad "the first of four answers is the only one's"
[ "$($answers --prompt abc --json --pack 2>"$out/err" </dev/null)" = "$(cat "$out/single")" ] && ok || bad "packed weights say the same"
grep -c '"index":[0-3]}' "$out/four" | grep -q '^4$' && ok || bad "answers say which they are"
printf 'a\000b\r\nc\n' >"$out/nul"
says "a line with a zero byte" '"prompt":"a.u0000b"' "$out/nul" $answers --json
from "$out/nul" $answers --json 2>"$out/err" | grep -c prompt | grep -q '^2$' && ok || bad "it is a line of its own"
[ "$(from "$out/nul" $answers --json 2>/dev/null | sed -n 's/.*"seed":\([0-9]*\).*/\1/p' | tr '\n' ' ')" = "7 8 " ] && ok || bad "each turn has its seed"
from "$out" timeout 20 $answers >"$out/log" 2>"$out/err"
[ $? = 1 ] && grep -q "input cannot be read" "$out/err" && ok || bad "a directory as input ends"
sed 's/, "dpo_tokenizer": "bytes"//' "$out/tiny.json" >"$out/no_tokenizer.json"
works "a model without a tokenizer" $train sft --init "$out/no_tokenizer.json" --tokenizer bytes --output "$out/bare" $o --max-steps 1
refuses "talks not" "tokenizer" $chat --model "$out/bare" --prompt a
works "but with one" $chat --model "$out/bare" --tokenizer bytes --prompt a --max-new-tokens 4
refuses "a tokenizer that is not there" "nowhere" $chat --model "$out/bare" --tokenizer "$out/nowhere" --prompt a

# samples, chat formats, tokenizers of models
grep -q '"prompt": "What is' "$out/t1/samples.jsonl" && ok || bad "samples hold their prompts"
grep -c '"policy"' "$out/t1/samples.jsonl" | grep -q '^8$' && ok || bad "four samples at each of two evaluations"
grep -q '"eval_sampled_length"' "$out/t1/metrics.jsonl" && ok || bad "metrics hold the samples' length"
works "no samples" $train dpo --model "$out/sft" --output "$out/t3" $o --sample-prompts 0
[ -e "$out/t3/samples.jsonl" ] && bad "--sample-prompts 0 writes none" || ok
cmp -s "$out/t2/model.safetensors" "$out/t3/model.safetensors" && ok || bad "samples change no bit"
works "messages in a chat format" $train dpo --model "$out/sft" --output "$out/chat" $o --chat-format chatml --lora-r 2 --lora-targets dense
grep -q chatml "$out/chat/adapter/dpo_chat.json" && ok || bad "the adapter says its chat format"
refuses "samples below 0" "sample-prompts" $train sft --init "$out/tiny.json" --output "$out/x" $o --sample-prompts -1
refuses "a chat format nobody knows" "chat-format" $train sft --init "$out/tiny.json" --output "$out/x" $o --chat-format vicuna
refuses "no tokenizer" "tokenizer" $train sft --init "$out/no_tokenizer.json" --output "$out/x" $o
sed 's/"vocab_size": 257/"vocab_size": 200/' "$out/tiny.json" >"$out/small.json"
refuses "a tokenizer too large" "257 ids.*vocabulary of 200" $train sft --init "$out/small.json" --output "$out/x" $o

# Early stopping: a run that learns nothing ends after so many evaluations; one that goes on is its own continuation.
stop="--train $out/pairs.jsonl --batch-size 8 --optimizer adamw --warmup-steps 0 --epochs 30 --eval-steps 1 --eval-fraction 0.2 --sample-prompts 0"
works "nothing is learnt" $train dpo --model "$out/sft" --output "$out/idle" $stop --learning-rate 0 --stop-metric rewards/accuracies --stop-patience 4
grep -q "stopped early: rewards/accuracies did not improve by 0.005 in 4 evaluations; the model is that after update 1," "$out/log" && ok ||
    bad "which ends after four evaluations"
[ "$(grep -c eval_loss "$out/idle/metrics.jsonl")" = 5 ] && ok || bad "after the first one"
works "not before --stop-min-steps" $train dpo --model "$out/sft" --output "$out/idle2" $stop --learning-rate 0 --stop-metric loss --stop-min-steps 6 --stop-patience 1
[ "$(grep -c eval_loss "$out/idle2/metrics.jsonl")" = 7 ] && ok || bad "evaluations before do not count"
stop="$stop --learning-rate 3e-3 --stop-metric loss --stop-min-delta 0.001 --stop-patience 3"
works "a run that overfits" $train dpo --model "$out/sft" --output "$out/over" $stop
best=$(sed -n 's/.*the model is that after update \([0-9]*\),.*/\1/p' "$out/log")
[ -n "$best" ] && [ -s "$(printf "%s/over/checkpoints/step-%08d.safetensors" "$out" "$best")" ] && ok || bad "keeps its best checkpoint"
over=$(hash_of "$out/log")
works "gone on with" $train dpo --model "$out/sft" --output "$out/over" $stop --resume
[ "$over" = "$(hash_of "$out/log")" ] && ok || bad "it ends in the same model"
works "the same, cut short" $train dpo --model "$out/sft" --output "$out/over2" $stop --max-steps 3
works "and gone on with" $train dpo --model "$out/sft" --output "$out/over2" $stop --resume
[ "$over" = "$(hash_of "$out/log")" ] && ok || bad "ends in the same model, too"
cmp -s "$out/over/metrics.jsonl" "$out/over2/metrics.jsonl" && ok || bad "with the same lines of metrics"
works "events for TensorBoard" $train dpo --model "$out/sft" --output "$out/board" $o --max-steps 2 --tensorboard "$out/board/events"
grep -q "train/loss" "$out"/board/events/events.out.tfevents.* && grep -q "eval/rewards/accuracies" "$out"/board/events/events.out.tfevents.* && ok ||
    bad "hold the metrics under TRL's names"
refuses "accuracies of sft" "is for dpo" $train sft --model "$out/sft" --output "$out/x" $o --stop-metric rewards/accuracies
refuses "no data to stop by" "needs evaluation data" $train dpo --model "$out/sft" --output "$out/x" $o --eval-fraction 0 --stop-metric loss
cp -r "$out/over" "$out/over3"
rm "$(printf "%s/over3/checkpoints/step-%08d.safetensors" "$out" "$best")" "$out/over3/model.safetensors"
works "the best checkpoint gone" $train dpo --model "$out/sft" --output "$out/over3" $stop --resume
has "the last model is written" "$out/over3/model.safetensors"
refuses "no checkpoints to stop at" "needs checkpoints" $train dpo --model "$out/sft" --output "$out/x" $o --stop-metric loss --keep 0
grep -q '"beta": 0.1' "$out/over/run.json" && grep -q '"command": "dpo"' "$out/over/run.json" && ok || bad "run.json says what the run was"

# An interrupt writes the model and exits with 0.
$train sft --init "$out/tiny.json" --output "$out/stop" $o --epochs 100000 >"$out/log" 2>"$out/err" </dev/null &
pid=$!
n=0
while [ $n -lt 100 ] && ! grep -q '"loss"' "$out/stop/metrics.jsonl" 2>/dev/null; do sleep 0.1; n=$((n + 1)); done
kill -INT $pid
wait $pid && ok || bad "an interrupted run exits with 0"
has "an interrupted run writes its model" "$out/stop/model.safetensors"
has "and a checkpoint" "$out"/stop/checkpoints/step-*.safetensors
refuses "which is not overwritten" "give --resume to go on" $train sft --init "$out/tiny.json" --output "$out/stop" $o --epochs 100000
refuses "nor taken for another run's" "objective is dpo here, sft in" $train dpo --init "$out/tiny.json" \
    --output "$out/stop" $o --epochs 100000 --resume
works "a run in two parts" $train sft --init "$out/tiny.json" --output "$out/parts" $o --epochs 2
works "goes on" $train sft --init "$out/tiny.json" --output "$out/parts" $o --epochs 5 --resume --threads 3
two=$(hash_of "$out/log")
works "to what one run gives" $train sft --init "$out/tiny.json" --output "$out/one" $o --epochs 5 --keep 0
[ -n "$two" ] && [ "$two" = "$(hash_of "$out/log")" ] && ok || bad "two parts give the bits of one run"
[ -e "$out/one/checkpoints" ] && bad "--keep 0 writes no checkpoints" || ok
refuses "one checkpoint" "keep 1 keeps no checkpoint" $train sft --init "$out/tiny.json" --output "$out/x" $o --keep 1
refuses "resuming without" "keep 0" $train sft --init "$out/tiny.json" --output "$out/x" $o --keep 0 --resume

# dpo-eval
eval=build/dpo-eval
golden=tests/golden/tasks
e="--model $out/dpo"
works "rewards" $eval rewards $e --reference "$out/sft" --data "$out/pairs.jsonl" --beta 0.2 --json --log "$out/eval.log"
grep -q '"n": 40, "rewards/accuracies": [0-9.]*, "low": ' "$out/log" && [ "$(wc -l <"$out/eval.log")" = 40 ] && ok || bad "rewards of 40 pairs"
works "rewards of an adapter, against its base" $eval rewards --model "$out/sft" --adapter "$out/lora/adapter" --data "$out/pairs.jsonl" \
    --compare "$out/dpo"
grep -q "McNemar" "$out/log" && ok || bad "two policies are compared"
all="$eval tasks $e --tasks $golden/hellaswag.jsonl,piqa=$golden/piqa.jsonl:$golden/piqa.labels.lst,$golden/sciq.json,arc_easy=$golden/arc_easy.jsonl"
works "tasks" $all --json --log "$out/eval1" --threads 1
cp "$out/log" "$out/eval.json"
grep -q '"task": "piqa", "n": 8, "acc": ' "$out/log" && [ "$(wc -l <"$out/log")" = 4 ] && ok || bad "four tasks"
works "three threads, scalar, few rows" $all --json --log "$out/eval2" --threads 3 --simd scalar --batch-rows 50
cmp -s "$out/eval1" "$out/eval2" && cmp -s "$out/eval.json" "$out/log" && ok || bad "threads, kernels and batches change no bit of an evaluation"
works "contexts computed again" $all --json --log "$out/eval2" --separate
cmp -s "$out/eval1" "$out/eval2" && ok || bad "shared contexts change no bit"
works "requests without a model" $eval tasks --tasks winogrande=$golden/winogrande.jsonl --dump-requests "$out/requests"
[ "$(head -n 1 "$out/requests")" = '{"task": "winogrande", "index": 0, "choice": 0, "gold": 1, "context": "Ann gave Bea the book because Ann", "continuation": " wanted to read it."}' ] &&
    ok || bad "requests are written"
works "loss against a reference" $eval loss $e --reference "$out/sft" --data "$out/text.jsonl" --mode packed
grep -q "KL(reference" "$out/log" && grep -q "bits per byte" "$out/log" && ok || bad "loss, KL and bits per byte"
gzip -c "$out/text.jsonl" >"$out/text.jsonl.gz" 2>/dev/null && works "loss of a .gz" $eval loss $e --data "$out/text.jsonl.gz"
[ "$(echo '{"prompt": "a", "response": "b"}' | $eval logprobs $e --data - --precision mixed | grep -c '"logprobs": \[-[0-9.e-]*\], "sum": ')" = 1 ] &&
    ok || bad "logprobs from standard input"
$eval --help | grep -q "truthfulqa_mc1" && ok || bad "--help names the tasks"
sed 's/"label": [a-z0-9]*/"label": true/; s/"answer": [a-z]*/"answer": true/' $golden/boolq.jsonl >"$out/onesided.jsonl"
works "labels that are all the same" $eval tasks $e --tasks "$out/onesided.jsonl"
grep -q "right answer of all 8 items is number 2" "$out/err" && ok || bad "are said to be"
refuses "eval: no command" "rewards, loss, tasks" $eval
refuses "eval: another command" "got 'los'" $eval los $e
refuses "eval: no model" "expected --model" $eval loss --data "$out/text.jsonl"
refuses "eval: no data" "needs --data" $eval loss $e
refuses "eval: no reference" "needs --reference" $eval rewards $e --data "$out/pairs.jsonl"
refuses "eval: no tasks" "needs --tasks" $eval tasks $e
refuses "eval: an unknown task" "'arcs' is no task" $eval tasks $e --tasks arcs=$golden/arc_easy.jsonl
refuses "eval: a file that is not there" "nowhere" $eval tasks $e --tasks arc=$golden/nowhere
refuses "eval: two tasks with the same fields" "name the task" $eval tasks $e --tasks $golden/arc_easy.jsonl
echo 0 >"$out/one.lst"
refuses "eval: too few labels" "more rows than the labels" $eval tasks $e --tasks "piqa=$golden/piqa.jsonl:$out/one.lst"
refuses "eval: examples without their file" "belong together" $eval tasks $e --tasks arc=$golden/arc_challenge.jsonl --num-fewshot 2
refuses "eval: examples from the evaluated file" "their own examples" $eval tasks $e --tasks $golden/arc_challenge.jsonl --num-fewshot 2 \
    --fewshot-file $golden/arc_challenge.jsonl
printf x >"$out/short.txt"
refuses "eval: a text too short" "at least two tokens" $eval loss $e --data "$out/short.txt"
refuses "eval: a log that cannot be written" "cannot write" $eval tasks $e --tasks $golden/sciq.json --log "$out/pairs.jsonl/x"
i=0
while [ $i -lt 4000 ]; do cat $golden/winogrande.jsonl; i=$((i + 40)); done >"$out/many.jsonl"
$eval tasks $e --tasks "$out/many.jsonl" --log "$out/stopped" --json --batch-rows 64 --threads 1 >"$out/log" 2>"$out/err" </dev/null &
pid=$!
n=0
while [ $n -lt 100 ] && ! [ -s "$out/stopped" ]; do sleep 0.05; n=$((n + 1)); done
kill -INT $pid
wait $pid
status=$?
{ [ $status = 130 ] && grep -q '"complete": false' "$out/log" && grep -q "until then" "$out/err"; } ||
    { [ $status = 0 ] && grep -q '"n": 800,' "$out/log"; } && ok || bad "an interrupted evaluation says what it has (status $status)"

if [ -f "$shared/data/hh/harmless-base.test.jsonl.gz" ]; then
    mkdir -p "$out/pythia"
    sed -e 's/"vocab_size": 257/"vocab_size": 50304/' -e 's/"eos_token_id": 256, "dpo_tokenizer": "bytes"/"eos_token_id": 0/' \
        "$out/tiny.json" >"$out/neox.json"
    works "Anthropic-HH as it is, gzip and all" $train sft --init "$out/tiny.json" --output "$out/hh" \
        --train "$shared/data/hh/harmless-base.test.jsonl.gz" --max-length 64 --max-prompt-length 32 --max-steps 2 --eval-size 16
    grep -q "2,312 rows" "$out/err" "$out/log" && ok || bad "HH: 2,312 rows are read"
    cp "$shared/data/tokenizers/pythia.tokenizer.json" "$out/pythia/tokenizer.json"
    cp "$shared/data/tokenizers/pythia.tokenizer_config.json" "$out/pythia/tokenizer_config.json"
    hh="--train $shared/data/hh/harmless-base.test.jsonl.gz --max-rows 60"
    works "Pythia's tokenizer" $train sft --init "$out/neox.json" --tokenizer "$out/pythia" --output "$out/neox" $hh --max-steps 1
    has "the tokenizer goes with the model" "$out/neox/tokenizer.json" "$out/neox/tokenizer_config.json" "$out/neox/dpo_chat.json"
    grep -q '"hh"' "$out/neox/dpo_chat.json" && ok || bad "HH data leave the chat format hh"
    works "a model with its own tokenizer" $train dpo --model "$out/neox" --output "$out/neox2" $hh --max-steps 1 --lora-r 2
    has "the tokenizer goes with the adapter" "$out/neox2/adapter/tokenizer.json" "$out/neox2/adapter/dpo_chat.json"
    works "GPT-2's tokens" $tokenize data --tokenizer "$shared/data/tokenizers/gpt2.tokenizer.json" --objective dpo $hh --output "$out/gpt2.tokens"
    refuses "another tokenizer's tokens" "another tokenizer" $train dpo --model "$out/neox" --output "$out/x" --train "$out/gpt2.tokens"
    refuses "a tokenizer larger than the model" "50278 ids.*vocabulary of 257" $train sft --init "$out/tiny.json" --tokenizer "$out/pythia" \
        --output "$out/x" $hh
    sed -e 's/"vocab_size": 257/"vocab_size": 50304/' -e 's/, "eos_token_id": 256, "dpo_tokenizer": "bytes"/, "eos_token_id": 50256/' \
        "$out/tiny.json" >"$out/gpt2.json"
    works "vocab.json under another name" $train sft --init "$out/gpt2.json" --tokenizer "$shared/data/tokenizers/gpt2.vocab.json" --output "$out/gpt2" $hh --max-steps 1
    has "goes with the model under its own" "$out/gpt2/vocab.json" "$out/gpt2/merges.txt"
    works "which talks with it" $chat --model "$out/gpt2" --prompt a --max-new-tokens 2
    refuses "an end of text that is no piece" "no piece" $tokenize encode --tokenizer "$out/pythia" --eos "<|no such|>"
    stories=$shared/data/stories260K
    works "a model that talks" $convert "$stories/stories260K.bin" "$out/stories"
    works "its tokenizer" $convert "$stories/stories260K.bin" "$out/stories-told" --tokenizer "$stories/tok512.bin"
    talks="$chat --model $out/stories --tokenizer $out/stories-told/tokenizer.json --temperature 0 --max-new-tokens 6"
    says "a continuation keeps its first space" '^ there was a' /dev/null $talks --prompt "Once upon a time,"
    refuses "a llama2.c tokenizer as it is" "dpo-convert MODEL.bin DIR --tokenizer .*tok512.bin" $chat --model "$out/stories" --tokenizer "$stories/tok512.bin" --prompt a
else
    echo "skipped: no HH data beside the checkout"
fi
# dpo-convert: in and out again, and every way to be wrong that a user finds.
hash_in() { $convert --info "$1" 2>"$out/err" | sed -n 's/^weight hash //p'; }
same_file() { # name, file, file
    cmp -s "$2" "$3" && ok || bad "$1"
}
sft=$out/sft
works "a directory converted" $convert "$sft" "$out/c-same"
same_file "is the same file" "$sft/model.safetensors" "$out/c-same/model.safetensors"
[ -n "$(hash_in "$sft")" ] && [ "$(hash_in "$sft")" = "$(hash_in "$out/c-same")" ] && ok || bad "and the same hash"
works "in shards" $convert "$sft" "$out/c-shards" --shard-size 20k
[ "$(ls "$out/c-shards" | grep -c 'model-0.*safetensors')" -gt 3 ] && ok || bad "more than three of them"
works "and back" $convert "$out/c-shards" "$out/c-back" --verify
same_file "is the same file again" "$sft/model.safetensors" "$out/c-back/model.safetensors"
works "in bf16" $convert "$sft" "$out/c-bf16" --dtype bf16
grep -q '"torch_dtype": "bfloat16"' "$out/c-bf16/config.json" && ok || bad "config.json says bfloat16"
works "bf16 as fp32" $convert "$out/c-bf16" "$out/c-f32" --dtype f32
works "and back to bf16" $convert "$out/c-f32" "$out/c-bf16b" --dtype bf16
same_file "changes nothing" "$out/c-bf16/model.safetensors" "$out/c-bf16b/model.safetensors"
[ "$(hash_in "$out/c-f32")" = "$(hash_in "$out/c-bf16")" ] && ok || bad "bf16 numbers hash as themselves in fp32"
works "the tensors alone" $convert "$sft" "$out/c.safetensors" --dtype f16
$convert --info "$out/c.safetensors" --verify >"$out/log" 2>"$out/err" && grep -q "checksums: all right" "$out/log" && ok || bad "info --verify"
sed 's/"initializer_range": [0-9.e-]*/"initializer_range": 30000/; s/"vocab_size"/"initializer_range": 30000, "vocab_size"/' "$out/tiny.json" >"$out/wide.json"
works "weights that are too large" $train sft --init "$out/wide.json" --output "$out/wide" $o --max-steps 1 --learning-rate 0
refuses "for f16" "numbers are too large for F16" $convert "$out/wide" "$out/c-x" --dtype f16
refuses "nor as tensors" "numbers are too large for F16" $convert "$out/wide/model.safetensors" "$out/c-x.safetensors" --dtype f16
refuses "nor as GGUF" "too large" $convert "$out/wide" "$out/c-x.gguf" --dtype f16
works "but for bf16" $convert "$out/wide" "$out/c-wide" --dtype bf16
works "a file with its configuration elsewhere" $convert "$sft/model.safetensors" "$out/c-file" --config "$sft/config.json"
works "an adapter merged" $convert "$sft" "$out/c-merged" --merge "$out/lora/adapter"
grep -q "logits differ by at most [0-9.]*e-0[5-9]" "$out/log" && ok || bad "which says how far it is from base and adapter"
works "an adapter alone" $convert "$out/lora/adapter" "$out/c-adapter"
works "which can be merged too" $convert "$sft" "$out/c-merged2" --merge "$out/c-adapter"
same_file "with the same weights" "$out/c-merged/model.safetensors" "$out/c-merged2/model.safetensors"
works "GGUF" $convert "$sft" "$out/c.gguf" --dtype f16
[ "$(head -c 4 "$out/c.gguf")" = GGUF ] && ok || bad "begins with GGUF"
works "GGUF with an adapter merged" $convert "$sft" "$out/c-merged.gguf" --merge "$out/lora/adapter"
ls "$out" | grep -q '\.part[0-9]$' && bad "directories that were made on the way stay behind" || ok
refuses "nothing to convert" "expected IN" $convert
refuses "nowhere to go" "expected OUT" $convert "$sft"
refuses "IN that is not there" "nowhere" $convert "$out/nowhere" "$out/c-x"
works "OUT with a slash" $convert "$sft" "$out/c-slash/"
refuses "OUT that is a dot" "no name" $convert "$sft" .
refuses "a pipe" "no ordinary file" $convert "$out/fifo" "$out/c-x.safetensors"
refuses "shards of a merge" "shard-size" $convert "$sft" "$out/c-x" --merge "$out/lora/adapter" --shard-size 20k
refuses "a tokenizer that is not there" "nowhere.json" $convert "$sft" "$out/c-x" --tokenizer "$out/nowhere.json"
refuses "OUT that is there" "is there already" $convert "$sft" "$out/c-same"
refuses "a type nobody knows" "dtype expects one of" $convert "$sft" "$out/c-x" --dtype int8
refuses "a cut file" "cut/model.safetensors" $convert "$out/cut" "$out/c-x"
mkdir -p "$out/c-empty"
refuses "a file that is no checkpoint" "neither safetensors" $convert tests/programs.sh "$out/c-x"
refuses "a directory without weights" "holds no weights" $convert "$out/c-empty" "$out/c-x"
refuses "tensors without a configuration" "has no config.json" $convert "$out/c.safetensors" "$out/c-x"
refuses "an adapter as a model" "is an adapter" $convert "$out/lora/adapter" "$out/c-x.gguf"
refuses "no adapter to merge" "nowhere" $convert "$sft" "$out/c-x" --merge "$out/nowhere"
refuses "no tokenizer for GGUF" "has no tokenizer.json" $convert "$out/bare" "$out/c-x.gguf"
cp -r "$out/c-shards" "$out/c-lost"
rm "$out/c-lost/model-00002-of-"*
refuses "a missing shard" "model-00002-of" $convert "$out/c-lost" "$out/c-x"
refuses "which the trainer misses too" "model-00002-of" $train sft --model "$out/c-lost" --output "$out/x" $o
cp -r "$out/c-shards" "$out/c-twice"
cp "$out/c-shards/model-00001-of-"* "$(ls "$out"/c-twice/model-00002-of-*)"
refuses "two shards with one tensor" "two of its files hold\|none of its files" $convert "$out/c-twice" "$out/c-x"
cp -r "$sft" "$out/c-rot"
printf 'X' | dd of="$out/c-rot/model.safetensors" bs=1 seek=9000 conv=notrunc 2>/dev/null
refuses "a changed byte, --verify" "not what was written" $convert "$out/c-rot" "$out/c-x" --verify
printf '\200\002cos\nsystem\nX\004\000\000\000trueR.' >"$out/evil.pt"
refuses "a pickle that would run something" "evil.pt" $convert "$out/evil.pt" "$out/c-x"
ls "$out" | grep -q '^c-x' && bad "a refused conversion leaves nothing" || ok
if [ -d "$shared/golden/v12_neox_bin_bf16" ]; then
    works "PyTorch's .bin" $convert "$shared/golden/v12_neox_bin_bf16" "$out/c-bin"
    works "its legacy format" $convert "$shared/golden/v13_gpt2_bin_legacy" "$out/c-legacy"
    works ".bin as safetensors" $convert "$shared/golden/v15_btlm_bin_and_safetensors/pytorch_model.bin" "$out/c-v15.safetensors"
    works "the safetensors beside it" $convert "$shared/golden/v15_btlm_bin_and_safetensors" "$out/c-v15"
    stories=$shared/data/stories260K
    works "llama2.c's format" $convert "$stories/stories260K.bin" "$out/c-stories" --tokenizer "$stories/tok512.bin"
    $chat --model "$out/c-stories" --prompt "Once upon a time," --temperature 0 --max-new-tokens 6 >"$out/log" 2>"$out/err"
    grep -q "^ there was a" "$out/log" && ok || bad "a converted model talks"
    works "which becomes GGUF" $convert "$out/c-stories" "$out/c-stories.gguf"
    works "and so does the file itself" $convert "$stories/stories260K.bin" "$out/c-stories2.gguf" --tokenizer "$stories/tok512.bin"
    head -c 5000 "$stories/stories260K.bin" >"$out/cut.bin"
    refuses "llama2.c's file cut" "cut.bin" $convert "$out/cut.bin" "$out/c-y"
fi

# Speeds: every command once, as short as it gets. Each line of --json is an object with the figures it is there for.
json_of() { # name, keys, command...
    name=$1
    keys=$2
    shift 2
    works "$name" "$@" --json --steps 1 --threads 2
    grep -qv '^{.*}$' "$out/log" && bad "$name: a line that is no object"
    for key in $keys; do grep -q "\"$key\": [0-9\"]" "$out/log" && ok || bad "$name: no $key"; done
    grep -q ' -*nan\| -*inf' "$out/log" && bad "$name: a figure that is none"
}
bench=build/dpo-bench
json_of "bench: peaks" "gflop_per_s gb_per_s" $bench peak
json_of "bench: products" "pct_peak geometric_mean_pct_peak" $bench gemm --shapes 2
json_of "bench: an SFT step" "tokens_per_s flops pct_peak peak_rss_bytes plan_bytes" $bench step sft --model 14m --batch 1 --seq 8
json_of "bench: SFT on rows like HH's" "step_s pct_peak" $bench step sft --model 14m --hh 1 --lora-r 2
json_of "bench: a pair like HH's" "step_s step_median_s pct_peak" $bench step dpo --model 14m --hh 1 --lora-r 2
grep -q '"tokens": 512' "$out/log" && ok || bad "such a pair has 166 + 90 and 166 + 90 tokens"
json_of "bench: decoding" "tokens_per_s pct_read prefill_pct_peak" $bench decode --model 14m --prompt 4 --tokens 4
json_of "bench: RMSprop" "bytes_per_parameter pct_stream" $bench optimizer --params 3 --optimizer rmsprop
works "bench lists its commands" $bench
grep -q "step sft|dpo" "$out/log" && ok || bad "bench lists its commands"
refuses "an unknown model" "9b; known are 14m" $bench step sft --model 9b
refuses "no threads" "threads expects an integer from 1" $bench peak --threads 0
refuses "threads without number" "threads expects" $bench peak --threads 99999999999
refuses "an unknown precision" "precision expects one of" $bench step sft --precision int8
refuses "a prompt that fills the sequence" "prompt must be smaller" $bench step dpo --seq 64 --prompt 64
refuses "a library that is not there" "nothing.so" $bench gemm --vs nothing.so --shapes 1
refuses "a shape that is not there" "within 1-46" $bench gemm --shapes 47

echo "$passed passed, $failed failed"
[ $failed = 0 ]
