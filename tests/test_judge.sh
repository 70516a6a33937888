#!/bin/sh
# test_judge.sh - build/dpo-judge from the outside: answers of a tiny model, questions, judges that behave and judges that
# do not, verdicts, figures checked against values from elsewhere. usage: test_judge.sh OUT. Last line: N passed, N failed.
out=$1/judge
judge=build/dpo-judge
train=build/dpo-train
rm -rf "$out"
mkdir -p "$out"
. tests/shell.sh
program=dpo-judge
says() { # name, pattern: of what the last command said
    if grep -q "$2" "$out/log" "$out/err"; then ok; else bad "$1"; fi
}
is() { # name, got, wanted
    if [ "$2" = "$3" ]; then ok; else
        failed=$((failed + 1))
        echo "FAILED $1: got '$2', wanted '$3'"
    fi
}
lines() { wc -l <"$1" | tr -d ' '; }
ids() { sed 's/.*"custom_id": "\([^"]*\)".*/\1/' "$1" | sort | uniq | wc -l | tr -d ' '; }
# A member of the last --json report; of objects in it: object.member.
member() { # name
    case $1 in
    *.*) sed -n "s/.*\"${1%%.*}\": {\([^}]*\)}.*/{\1}/p" "$out/log" | sed -n "s/.*[{ ]\"${1#*.}\": \([^,}]*\)[,}].*/\1/p" ;;
    *) sed -n "s/.*[{ ]\"$1\": \([^,}]*\)[,}].*/\1/p" "$out/log" ;;
    esac | tr -d '"'
}
near() { # name, member, wanted, allowed
    got=$(member "$2")
    if echo "$got $3 $4" | awk '{ d = $1 - $2; exit !(NF == 3 && d <= $3 && d >= -$3) }'; then ok; else
        failed=$((failed + 1))
        echo "FAILED $1: $2 is '$got', wanted $3"
    fi
}

# ---- generate: a tiny model with random weights, moved by a few updates --------------------------------------------
cat >"$out/tiny.json" <<'J'
{"model_type": "gpt_neox", "vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
 "intermediate_size": 64, "max_position_embeddings": 128, "rotary_pct": 0.5, "hidden_act": "gelu",
 "tie_word_embeddings": false, "eos_token_id": 256, "dpo_tokenizer": "bytes"}
J
i=0
while [ $i -lt 70 ]; do
    printf '%s\n' "{\"chosen\": \"\\n\\nHuman: Where is $i?\\n\\nAssistant: After $((i - 1)).\", \"rejected\": \"\\n\\nHuman: Where is $i?\\n\\nAssistant: Gone.\"}"
    i=$((i + 1))
done >"$out/hh.jsonl"
head -n 3 "$out/hh.jsonl" >>"$out/hh.jsonl.more"
cat "$out/hh.jsonl.more" >>"$out/hh.jsonl"
echo '{"chosen": "no turns", "rejected": "none"}' >>"$out/hh.jsonl"
for k in 1 2; do
    $train sft --init "$out/tiny.json" --output "$out/m$k" --train "$out/hh.jsonl" --batch-size 8 --max-steps $((20 * k)) --quiet \
        --optimizer adamw --learning-rate 1e-2 --warmup-steps 0 --eval-fraction 0 --sample-prompts 0 >"$out/log" 2>"$out/err" </dev/null ||
        bad "a tiny model"
done
g="$judge generate --model $out/m1 --data $out/hh.jsonl --max-new-tokens 16 --seed 3"
works "answers" $g --output "$out/answers.jsonl"
says "prompts that occur twice are counted" "3  a prompt that an earlier row has (first in line 71)"
says "rows without a turn are counted" "1  no .*Assistant:.* in chosen (first in line 74)"
is "an answer to each prompt" "$(lines "$out/answers.jsonl")" 70
is "the data's answers are there" "$(grep -c '"chosen": " After [-0-9]*\."' "$out/answers.jsonl")" 70
is "the prompt is HH's" "$(grep -c '"prompt": "\\n\\nHuman: Where is [0-9]*?\\n\\nAssistant:"' "$out/answers.jsonl")" 70
is "the next turn is no part of an answer" "$(grep -c '"policy": "[^"]*Human:' "$out/answers.jsonl")" 0
works "the same with one thread" $g --output "$out/again.jsonl" --threads 1
cmp -s "$out/answers.jsonl" "$out/again.jsonl" && ok || bad "threads change no answer"
works "a few, spread" $g --output "$out/few.jsonl" --max-prompts 5 --choose spread
grep -c . "$out/few.jsonl" | grep -q '^5$' && grep -qvFf "$out/answers.jsonl" "$out/few.jsonl" && bad "an answer does not depend on its neighbours" || ok
works "it goes on" $g --output "$out/few.jsonl"
says "what was there counts" "70 prompts (5 before"
sort "$out/few.jsonl" >"$out/few.sorted"
sort "$out/answers.jsonl" | cmp -s - "$out/few.sorted" && ok || bad "pieces are the whole"
head -c 2000 "$out/answers.jsonl" >"$out/cut.jsonl"
works "a broken last line is cut" $g --output "$out/cut.jsonl"
says "and told of" "last line was broken, [0-9]* bytes were cut"
cmp -s "$out/answers.jsonl" "$out/cut.jsonl" && ok || bad "then all is as it was"
refuses "another seed is another run" "give another --output" $g --output "$out/answers.jsonl" --seed 4
works "against another model" $g --output "$out/two.jsonl" --against "$out/m2" --max-prompts 6
is "two answers a line" "$(grep -c '"against": ".*"against_stop"' "$out/two.jsonl")" 6
works "held-out prompts" $g --output "$out/held.jsonl" --eval-fraction 0.3
held=$(lines "$out/held.jsonl")
build/dpo-tokenize data --tokenizer bytes --train "$out/hh.jsonl" --eval-fraction 0.3 --report "$out/report" --quiet >"$out/log" 2>"$out/err"
is "those that training holds out" "$held" "$(sed -n 's/.*"held_out": {"examples": \([0-9]*\).*/\1/p' "$out/report")"
[ "$held" -gt 8 ] && [ "$held" -lt 40 ] && ok || bad "a part is held out ($held)"
works "the study's cut" $g --output "$out/rfind.jsonl" --compat-rfind --max-prompts 4
refuses "no room" "leaves no room for a prompt" $g --output "$out/x.jsonl" --max-new-tokens 128
refuses "no model" "expected --model" $judge generate --data "$out/hh.jsonl" --output "$out/x.jsonl"
refuses "no data" "expected --data" $judge generate --model "$out/m1" --output "$out/x.jsonl"
refuses "data that are not there" "nowhere" $judge generate --model "$out/m1" --output "$out/x.jsonl" --data "$out/nowhere"
refuses "no command" "generate, export" $judge
refuses "an unknown command" "got 'judge'" $judge judge
refuses "an unknown option" "did you mean --manifest" $judge export x --output y --manifst z

# ---- export -----------------------------------------------------------------------------------------------------------
i=1
while [ $i -le 12 ]; do
    printf '%s\n' "{\"id\": $i, \"prompt\": \"\\n\\nHuman: q$i?\\n\\nAssistant:\", \"policy\": \" policy $i\", \"chosen\": \" chosen\"}"
    i=$((i + 1))
done >"$out/a.jsonl"
e="$judge export $out/a.jsonl --manifest $out/m.jsonl"
works "questions" $e --output "$out/q.jsonl"
is "a question each" "$(ids "$out/q.jsonl")" 12
is "the slots alternate" "$(sed 's/.*"slot": "\(.\)".*/\1/' "$out/m.jsonl" | tr -d '\n')" BABABABABABA
head -n 1 "$out/q.jsonl" | grep -q '^{"custom_id": "[0-9a-f]\{8\}\.1\.B", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-4", "messages": \[{"role": "user", "content": "For the following query.*Response A:\\nchosen\\n\\nResponse B:\\npolicy 1\\n\\n.*"max_tokens": 256, "temperature": 0}}$' &&
    ok || bad "a line of OpenAI's Batch"
cp "$out/m.jsonl" "$out/m.batch.jsonl"
works "plain lines" $e --output "$out/q.plain.jsonl" --lines plain
cmp -s "$out/m.jsonl" "$out/m.batch.jsonl" && ok || bad "the same run, whatever the lines"
works "pairs in MT-bench's form" $judge export "$out/a.jsonl" --manifest "$out/m2.jsonl" --output "$out/q2.jsonl" --style pair-v2 --order both
is "both orders" "$(ids "$out/q2.jsonl")" 24
is "with a system's message" "$(grep -c '"role": "system".*\[\[C\]\].*"role": "user"' "$out/q2.jsonl")" 24
printf 'Q: {query} 1: {a} 2: {b} {c}?\n' >"$out/form"
works "a template" $judge export "$out/a.jsonl" --manifest "$out/mt.jsonl" --output "$out/qt.jsonl" --template "$out/form" --order hash
grep -q '"content": "Q: Human: q12?\\n\\nAssistant: 1: .* 2: .* {c}?"' "$out/qt.jsonl" && ok || bad "its places are filled"
is "hashed slots differ" "$(sed 's/.*"slot": "\(.\)".*/\1/' "$out/mt.jsonl" | sort -u | tr -d '\n')" AB
echo 'no places' >"$out/form"
refuses "a template without places" "expected a text with" $judge export "$out/a.jsonl" --manifest "$out/x" --output "$out/y" --template "$out/form"
[ -e "$out/x" ] || [ -e "$out/y" ] && bad "an error leaves no file" || ok
refuses "no answers" "holds no answers" $judge export "$out/tiny.json" --manifest "$out/x" --output "$out/y"
(
    cat "$out/a.jsonl"
    echo '{"id": 3, "prompt": "p", "policy": "a", "chosen": "b"}'
    echo '{"id": "no blanks", "prompt": "p", "policy": "a", "chosen": "b"}'
    echo '{"id": 77, "prompt": "p", "policy": "a"}'
    echo '{"id": 78, "prompt": "p", "polic'
) >"$out/odd.jsonl"
works "answers with bad lines" $judge export "$out/odd.jsonl" --manifest "$out/mo.jsonl" --output "$out/qo.jsonl"
says "an id twice" "1 line not used: an id that an earlier line has"
says "a bad id" "1 line not used: id is none"
says "a line without an answer" "1 line not used: chosen is missing"
is "the others are used" "$(lines "$out/qo.jsonl")" 12

# ---- run: judges ------------------------------------------------------------------------------------------------------
# Each is a shell program over `next`, which reads a question and sets id, and `say`, which answers it.
cat >"$out/lib" <<'L'
next() { IFS= read -r line || return 1; id=${line#*\"custom_id\": \"}; id=${id%%\"*}; n=${id#*.}; n=${n%.*}; }
say() { printf '%s\n' "{\"custom_id\": \"$1\", \"content\": \"Comparison: $1.\\nMore helpful: $2\"}"; }
L
a_judge() { # name; its text on stdin
    (
        echo ". $out/lib"
        cat
    ) >"$out/judge.$1"
}
a_judge good <<'S'
while next; do say $id A; done
S
a_judge reverse <<'S'
while next; do a=$id; next; b=$id; next; c=$id; next; say $id A; say $c A; say $b A; say $a A; done
S
a_judge mortal <<'S'
next && say $id A; next && say $id A; next && say $id A; next; exit 3
S
a_judge poison <<'S'
while next; do [ $n = 5 ] && kill -9 $$; say $id A; done
S
a_judge hanging <<S
echo \$\$ >>"$out/pids"
while next; do [ \$n = 5 ] && sleep 1000; say \$id A; done
S
a_judge twice <<'S'
while next; do say $id A; say $id B; done
S
a_judge rubbish <<'S'
echo "loading the model"
echo '{"custom_id": 5, "content": "x"}'
echo '[1, 2'
echo
while next; do
    say ${id%%.*}.none.A A
    say xyz A
    [ $n = 4 ] && head -c 3000000 /dev/zero | tr '\0' x && echo
    [ $n = 7 ] && printf '\377\376\001{}\n'
    say $id A
done
printf '{"custom_id": "'
S
a_judge early <<'S'
while next; do say ${id%%.*}.12.A A; say $id A; done
S
a_judge error <<'S'
while next; do if [ $n = 5 ]; then echo "{\"custom_id\": \"$id\", \"error\": \"no idea\"}"; else say $id A; fi; done
S
a_judge deaf <<'S'
next; say $id A; exec <&-; sleep 0.2; exit 0
S
a_judge slow <<S
echo \$\$ >>"$out/pids"
while next; do sleep 0.2; say \$id A; done
S
a_judge unended <<'S'
while next; do [ $n = 12 ] && { printf '{"custom_id": "%s", "content": "x"}' $id; exit 0; }; say $id A; done
S
cat >"$out/r" <<R
o=\$1
j=\$2
shift 2
exec $judge run $out/q.jsonl --output $out/\$o.jsonl --cmd "sh $out/judge.\$j" "\$@"
R
r="sh $out/r" # output, judge, options...
complete() { # name, results
    is "$1: an answer each" "$(grep -c '"content"' "$out/$2.jsonl") $(ids "$out/$2.jsonl")" "12 12"
}
works "a good judge" $r good good
complete "a good judge" good
sort "$out/good.jsonl" >"$out/good.sorted"
same() { sort "$out/$2.jsonl" | cmp -s - "$out/good.sorted" && ok || bad "$1: the good judge's answers"; }
works "plain questions" $judge run "$out/q.plain.jsonl" --output "$out/plain.jsonl" --cmd "sh $out/judge.good"
same "plain questions" plain
works "three processes, several questions each" $r jobs good --jobs 3 --in-flight 2
same "three processes" jobs
works "a judge that answers out of order" $r reverse reverse --in-flight 4
same "out of order" reverse
works "a judge that ends after three answers" $r mortal mortal
same "it is started again" mortal
says "and told of" "processes that ended with questions open"
refuses "a judge that dies of one question" "1 questions have no answer" $r poison poison
is "the others have theirs" "$(grep -c '"content"' "$out/poison.jsonl")" 11
is "the error says why" "$(grep -c '\.5\.B", "error": "the judge ended without an answer: [a-z ]* \(9\|137\)"' "$out/poison.jsonl")" 1
says "three processes died" "3 processes that ended"
works "the same command goes on" $r poison good
says "with the one question" "12 of 12 questions answered (11 before this run)"
is "one line more" "$(lines "$out/poison.jsonl")" 13
refuses "a judge that hangs" "1 questions have no answer" $r hanging hanging --timeout 0.4 --retries 1
is "the others have theirs, too" "$(grep -c '"content"' "$out/hanging.jsonl")" 11
is "the error says how long" "$(grep -c '"error": "no answer within 0.4 s"' "$out/hanging.jsonl")" 1
# A process that nobody has reaped yet has ended, too.
gone() {
    for p in $(cat "$out/pids"); do
        case $(ps -o stat= -p "$p" 2>/dev/null) in "" | Z*) ;; *) bad "$1: process $p is left"; return ;; esac
    done
    ok
}
gone "a judge that hangs"
works "a judge that answers twice" $r twice twice
same "the first answer counts" twice
says "the second is told of" "12 second answers to a question\|1[012] second answers"
works "a judge that talks rubbish" $r rubbish rubbish
same "its answers are found" rubbish
says "lines that are none" "the judge: 5 lines that are no answers\|the judge: 4 lines that are no answers"
says "unknown questions" "24 answers to questions that do not exist"
says "a line of 3 MB" "1 line longer than 1 MiB"
works "a judge that answers before it was asked" $r early early
same "that counts not" early
says "and is told of" "questions not asked of it"
refuses "a judge that gives errors" "1 questions have no answer" $r error error
is "its words are kept" "$(grep -c '"error": "no idea"' "$out/error.jsonl")" 1
works "a judge that stops reading" $r deaf deaf
same "another one is started" deaf
works "a last line without its end" $r unended unended
complete "a last line without its end" unended
refuses "a judge that is not there" "in a row without an answer, the last time: exit status 12" $judge run "$out/q.jsonl" \
    --output "$out/none.jsonl" --cmd "$out/none.at.all" --retries 0
refuses "a judge that says nothing" "exit status 0" $judge run "$out/q.jsonl" --output "$out/none.jsonl" --cmd true --retries 0
rm -f "$out/pids"
$r slow slow >"$out/log" 2>"$out/err" &
pid=$!
n=0
while [ $n -lt 100 ] && ! grep -q . "$out/slow.jsonl" 2>/dev/null; do sleep 0.1; n=$((n + 1)); done
kill -INT $pid
wait $pid
[ $? = 1 ] && grep -q "stopped; [0-9]* questions are open, the same command goes on" "$out/err" && ok || bad "Ctrl-C ends the run with 1"
gone "Ctrl-C"
is "whole lines" "$(grep -c '^{"custom_id": ".*}$' "$out/slow.jsonl")" "$(lines "$out/slow.jsonl")"
works "after Ctrl-C it goes on" $r slow good
same "and is complete" slow
head -c 500 "$out/good.jsonl" >"$out/cutoff.jsonl"
works "a broken last line is cut, and its question asked again" $r cutoff good
says "that is told" "last line was broken"
same "it is complete" cutoff
if command -v gzip >/dev/null 2>&1; then
    gzip -c "$out/good.jsonl" >"$out/packed.jsonl"
    refuses "packed results" "is compressed" $r packed good
fi
cp "$out/good.jsonl" "$out/other.jsonl"
sed 's/q7/q7 other/' "$out/a.jsonl" >"$out/a3.jsonl"
works "another run" $judge export "$out/a3.jsonl" --manifest "$out/m3.jsonl" --output "$out/q3.jsonl"
refuses "results of another run" "is of another run than these questions" $judge run "$out/q3.jsonl" --output "$out/other.jsonl" --cmd true
cmp -s "$out/good.jsonl" "$out/other.jsonl" && ok || bad "they stay as they are"
cat "$out/q.jsonl" "$out/q.jsonl" >"$out/twice.q"
refuses "a question twice" "occurs twice" $judge run "$out/twice.q" --output "$out/x.jsonl" --cmd true

# ---- import -----------------------------------------------------------------------------------------------------------
# The whole way with known counts: the policy is preferred in questions 1 to 7, the other in 8 to 10, 11 has no verdict,
# 12 one in quotes. Slots alternate from B on.
a_judge known <<'S'
while next; do
    own=${id##*.}
    case $own in A) other=B ;; *) other=A ;; esac
    case $n in
    8 | 9 | 10) say $id $other ;;
    11) say $id neither ;;
    12) say $id "\\\"$own\\\"" ;;
    *) say $id $own ;;
    esac
done
S
import="$judge import --manifest $out/m.jsonl"
works "verdicts known beforehand" $r known known
works "their import" $import "$out/known.jsonl" --output "$out/v.jsonl" --json
near "wins" wins 8 0
near "losses" losses 3 0
near "ties" ties 0 0
near "no verdict" questions.invalid 1 0
near "win rate 8 of 11" win_rate.rate 0.7272727273 1e-9
# Wilson: (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n) at p = 8/11, n = 11, z = 1.959963984540054, by hand
near "Wilson, low" win_rate.low 0.434354698824 1e-9
near "Wilson, high" win_rate.high 0.902539407100 1e-9
# the study's rule: question 12's verdict ends in a quotation mark and is a loss, so is 11
near "the study's rule" compat.rate 0.5833333333 1e-9
near "of all answers" compat.n 12 0
# slot A: 2 4 6 and 12 won, 8 and 10 lost; slot B: 1 3 5 7 won, 9 lost
near "the policy first" policy_is_a.rate 0.6666666667 1e-9
near "the policy second" policy_is_b.rate 0.8 1e-9
near "A wins: 4 + 1 of 11" a_wins.rate 0.4545454545 1e-9
works "the report of the file is the same" $judge report "$out/v.jsonl" --json
near "wins" wins 8 0
near "no verdict" questions.invalid 1 0
near "A wins" a_wins.rate 0.4545454545 1e-9
is "a verdict each" "$(ids "$out/m.jsonl") $(lines "$out/v.jsonl")" "12 12"
works "a table" $judge report "$out/v.jsonl"
says "with the counts" "8 wins, 3 losses, 0 ties"
says "and what was not counted" "1 of 12 questions: 1 without a verdict, 0 failed, 0 missing"
works "by the study's rule" $import "$out/known.jsonl" --compat --json
near "wins by it" wins 7 0
near "losses by it" losses 5 0

# From a model to the report: a judge for whom the first answer always wins.
works "questions about a model's answers" $judge export "$out/answers.jsonl" --manifest "$out/mg.jsonl" --output "$out/qg.jsonl"
works "a judge with a bias" $judge run "$out/qg.jsonl" --output "$out/rg.jsonl" --cmd "sh $out/judge.good" --jobs 2
works "its report" $judge import "$out/rg.jsonl" --manifest "$out/mg.jsonl" --json
near "all are counted" pairs 70 0
near "it gives half" win_rate.rate 0.5 0
near "all of the one" policy_is_a.rate 1 0
near "none of the other" policy_is_b.rate 0 0
near "and is known by it" a_wins.rate 1 0

# OpenAI's lines, out of order, in two files, with all that can be wrong in them.
batch() { printf '%s\n' "{\"id\": \"x\", \"custom_id\": \"$1\", \"response\": {\"status_code\": 200, \"request_id\": \"r\", \"body\": {\"choices\": [{\"index\": 0, \"message\": {\"role\": \"assistant\", \"content\": $2}}]}}, \"error\": null}"; }
run=$(sed -n '1s/.*"run": "\([^"]*\)".*/\1/p' "$out/m.jsonl")
(
    batch $run.12.A '"Comparison: c\nMore helpful: A"'
    batch $run.2.A '"More helpful: **B**"'
    batch $run.1.B '"More helpful: B."'
    batch $run.3.B null
    batch $run.1.B '"More helpful: B."'
    batch $run.1.B '"More helpful: A"'
    batch $run.99.A '"More helpful: A"'
    batch 01234567.1.B '"More helpful: A"'
    printf '%s\n' "{\"custom_id\": \"$run.5.B\", \"response\": null, \"error\": {\"code\": \"c\", \"message\": \"too busy\"}}"
    printf '%s\n' "{\"custom_id\": \"$run.6.A\", \"response\": {\"status_code\": 500, \"body\": {\"error\": {\"message\": \"m\"}}}, \"error\": null}"
    echo '{"content": "More helpful: A"}'
    echo 'not JSON'
    printf '{"custom_id": "%s.7' $run
) >"$out/r1.jsonl"
(
    batch $run.6.A '"More helpful: A"'
    printf '%s\n' "{\"custom_id\": \"$run.6.A\", \"response\": null, \"error\": {\"message\": \"late\"}}"
) >"$out/r2.jsonl"
works "results of a batch" $import "$out/r1.jsonl" "$out/r2.jsonl" --output "$out/vb.jsonl"
says "the same answer again" "1 line not used: the same answer a second time (first: line 5)"
says "another answer" "1 line not used: another answer to a question that has one (first: line 6)"
says "an unknown question" "1 line not used: custom_id is none of the manifest's (first: line 7)"
says "another run" "1 line not used: of another run than the manifest (first: line 8)"
says "no id" "1 line not used: custom_id is missing (first: line 11)"
says "no JSON" "1 line not used: bad JSON.*(first: line 12)"
says "a broken end" "1 line not used: broken: the file ends in the middle of a line (first: line 13)"
says "an error after an answer" "1 line not used: an error for a question that has an answer (first: line 2)"
works "their counts" $judge report "$out/vb.jsonl" --json
near "wins" wins 3 0
near "losses" losses 1 0
near "a refusal is no verdict" questions.invalid 1 0
near "an error that stays" questions.failed 1 0
near "missing" questions.missing 6 0
refuses "results of another run alone" "no line of .* answers a question" $judge import "$out/r1.jsonl" --manifest "$out/m3.jsonl"
refuses "no manifest" "expected --manifest" $judge import "$out/r1.jsonl"
refuses "a manifest that is none" "names no questions" $judge import "$out/r1.jsonl" --manifest "$out/r1.jsonl"

# What a verdict is: the policy has slot A here. Wins, losses and no verdicts, strictly and by the others' rules.
verdict() { # style, content as JSON, outcome, outcome with --compat
    m="$out/m.$1"
    printf '%s\n' "{\"custom_id\": \"r.1.A\", \"run\": \"12345678\", \"id\": \"1\", \"slot\": \"A\", \"style\": \"$1\", \"judge\": \"j\", \"policy_chars\": 1, \"baseline_chars\": 2, \"prompt\": \"0000000000000001\", \"baseline\": \"0000000000000002\"}" >"$m"
    printf '%s\n' "{\"custom_id\": \"r.1.A\", \"content\": $2}" >"$out/one"
    $judge import "$out/one" --manifest "$m" --output "$out/v1" --quiet >"$out/log" 2>"$out/err"
    $judge import "$out/one" --manifest "$m" --output "$out/v2" --quiet --compat >"$out/log" 2>"$out/err"
    is "$1: $2" "$(cat "$out/v1" "$out/v2" | sed 's/.*"outcome": "\([a-z]*\)".*/\1/' | tr '\n' ' ')" "$3 $4 "
}
verdict dpo-hh '"Comparison: c\nMore helpful: A"' win win
verdict dpo-hh '"Comparison: c\nMore helpful: B"' loss loss
verdict dpo-hh '"More helpful: \"A\""' win loss
verdict dpo-hh '"**More helpful:** A.\n"' win loss
verdict dpo-hh '"More helpful:\n\n[B]\n"' loss loss
verdict dpo-hh '"More helpful: B. No, wait.\nMore helpful: A"' win win
verdict dpo-hh '"More helpful: Response A"' invalid win
verdict dpo-hh '"More helpful: A or B"' invalid loss
verdict dpo-hh '"A"' invalid loss
verdict dpo-hh '"more helpful: A"' invalid loss
verdict dpo-hh '""' invalid loss
verdict pair-v2 '"A is better. [[A]]"' win win
verdict pair-v2 '"[[B]]"' loss loss
verdict pair-v2 '"Equal: [[C]]"' tie tie
verdict pair-v2 '"Not [[A]]: [[B]]"' invalid win
verdict pair-v2 '"[[D]]"' invalid invalid

# Both orders: a win or a loss where both verdicts agree, else a tie; half a pair is no pair.
(
    sed -n '/"id": "1"/p; /"id": "2"/p; /"id": "3"/p; /"id": "4"/p; /"id": "5"/p' "$out/m2.jsonl"
) >"$out/m5.jsonl"
run2=$(sed -n '1s/.*"run": "\([^"]*\)".*/\1/p' "$out/m5.jsonl")
reply() { printf '%s\n' "{\"custom_id\": \"$run2.$1\", \"content\": \"$2\"}"; }
(
    reply 1.A '[[A]]' && reply 1.B '[[B]]' # won twice
    reply 2.A '[[B]]' && reply 2.B '[[A]]' # lost twice
    reply 3.A '[[A]]' && reply 3.B '[[A]]' # the first answer twice
    reply 4.A '[[A]]' && reply 4.B '[[C]]' # won, tie
    reply 5.A '[[A]]' && reply 5.B 'none'
) >"$out/both"
works "both orders" $judge import "$out/both" --manifest "$out/m5.jsonl" --json
near "pairs" pairs 4 0
near "wins" wins 1 0
near "losses" losses 1 0
near "ties" ties 2 0
near "half a pair" half_judged 1 0
near "A wins: 1 5 as A and 3 4 as A, 2 and 3 as B, a tie" a_wins.rate 0.7222222222 1e-9

# ---- figures ----------------------------------------------------------------------------------------------------------
v() { # id, outcome, difference in characters, run
    printf '%s\n' "{\"run\": \"$4\", \"judge\": \"j\", \"id\": \"$1\", \"slot\": \"-\", \"outcome\": \"$2\", \"compat\": 0, \"policy_chars\": $((100 + $3)), \"baseline_chars\": 100, \"prompt\": \"00000000000000$1\", \"baseline\": \"0000000000000002\"}"
}
i=10
for pair in 12:win -5:loss 30:win 7:win -20:loss 3:win -14:win 25:tie 40:win -33:loss 9:loss -2:win 16:win -8:loss 21:win -11:tie \
    5:loss -27:loss 18:win -6:win; do
    v $i ${pair#*:} ${pair%%:*} 00000001
    i=$((i + 1))
done >"$out/twenty"
works "twenty verdicts" $judge report "$out/twenty" --json
near "ties are half a win" win_rate.rate 0.6 1e-12
near "Wilson, low" win_rate.low 0.386581500762 1e-9
near "Wilson, high" win_rate.high 0.781193467623 1e-9
# The regression's reference values: the two likelihood equations of P = 1/(1 + exp(-(b + g tanh(d/sd)))), solved by nested
# bisection in decimal arithmetic of 50 digits (sd with n - 1, ties 1/2); b's error from the inverse information matrix.
near "length-adjusted" length_adjusted.rate 0.585122180423 1e-9
near "its low end" length_adjusted.low 0.332095442514 1e-9
near "its high end" length_adjusted.high 0.800016279246 1e-9
near "the slope" length_slope 1.931795198407 1e-9
near "characters" policy_chars 103 1e-9
# A resample of n verdicts with share p has Binomial(n, p)/n as its mean: for n = 20, p = 0.7 P(X <= 9) = 0.0171 and
# P(X <= 10) = 0.0480, P(X <= 17) = 0.9645 and P(X <= 18) = 0.9924, so that the 2.5 % and 97.5 % quantiles are 10 and 18.
i=10
while [ $i -lt 30 ]; do
    v $i "$([ $i -lt 24 ] && echo win || echo loss)" 0 00000002
    i=$((i + 1))
done >"$out/fourteen"
works "14 of 20" $judge report "$out/fourteen" --json
near "bootstrap, low" bootstrap_low 0.5 1e-12
near "bootstrap, high" bootstrap_high 0.9 1e-12
near "Wilson, low" win_rate.low 0.481027181646 1e-9
is "equal lengths cannot be adjusted for" "$(member length_adjusted)" null
sort -r "$out/fourteen" >"$out/turned"
$judge report "$out/turned" --json | sed 's/turned/fourteen/' >"$out/log2"
cmp -s "$out/log" "$out/log2" && ok || bad "the order of lines says nothing"
# lengths that tell all: no finite maximum
for i in 10 11 12 13; do v $i win 9 00000003; done >"$out/apart"
for i in 14 15 16 17; do v $i loss -9 00000003; done >>"$out/apart"
works "lengths that tell all" $judge report "$out/apart" --json
is "have no adjusted rate" "$(member length_adjusted)" null
near "the longer wins" longer_wins.rate 1 0
# Two models: the second wins 10 to 15 as the first does, not 16 to 23, but 24 and 25. Of 10 prompts on which they differ
# the first is better on 8: exact McNemar 2 (1 + 10 + 45)/1024 = 0.109375.
i=10
while [ $i -lt 31 ]; do
    case $i in 1[0-5] | 24 | 25) o=win ;; *) o=loss ;; esac
    v $i $o 0 00000004
    i=$((i + 1))
done >"$out/second"
works "two models" $judge report "$out/fourteen" "$out/second" --json
near "better" better 8 0
near "worse" worse 2 0
near "McNemar's p" mcnemar_p 0.109375 1e-12
near "the difference" difference 0.3 1e-12
near "one prompt of the second alone" only_second 1 0
works "as a table" $judge report "$out/fourteen" "$out/second"
says "better in 8" "better in 8, worse in 2"
(
    cat "$out/fourteen"
    head -n 1 "$out/fourteen"
    head -n 1 "$out/second"
    echo '{"run": "00000002", "judge": "j", "id": "40", "slot": "Q", "outcome": "win"}'
    echo '{"run": "0000\"002", "judge": "j", "id": "41", "slot": "-", "outcome": "win"}'
) >"$out/odd.v"
works "verdicts with bad lines" $judge report "$out/odd.v"
says "a second verdict" "1 line not used: a second verdict on a question (first: line 21)"
says "another run" "1 line not used: of another run than the first line's (first: line 22)"
says "no slot" "1 line not used: slot is not A, B or - (first: line 23)\|1 line not used: no lengths"
says "no run" "1 line not used: run is not 8 hexadecimal digits (first: line 24)"
refuses "no verdicts" "holds no verdicts" $judge report "$out/a.jsonl"

# ---- score: judges that are built in ----------------------------------------------------------------------------------
p='"prompt": "\\n\\nHuman: Where does Ben live?\\n\\nAssistant:"'
(
    echo "{\"id\": 1, $p, \"policy\": \" Of course! Ben lives in the cave.\", \"chosen\": \" In the cave.\"}"       # 6 : 5
    echo "{\"id\": 2, $p, \"policy\": \" Ben lives in the mill.\", \"chosen\": \" Ben lives in the cave and then\"}" # 0 : 2
    echo "{\"id\": 3, $p, \"policy\": \" In the cave.\", \"chosen\": \" Ben lives in the cave.\"}"                    # 5 : 5
    echo "{\"id\": 4, $p, \"policy\": \" Of course! Ben lives in the cave.\\u0000\", \"chosen\": \" In the cave.\"}"  # 0 : 5
    echo "{\"id\": 5, \"prompt\": \"Who are you?\", \"policy\": \"I\", \"chosen\": \"me\"}"
) | sed 's/\\\\n/\\n/g' >"$out/world.jsonl"
works "the rule of the little world" $judge score "$out/world.jsonl" --by world --json --output "$out/vw.jsonl"
near "wins" wins 1 0
near "losses" losses 2 0
near "ties" ties 1 0
near "no question of the world" questions.invalid 1 0
says "it is named as what it is" '"judge": "the rule of the little world (built in)"'
grep -q '"note": "good / curt"' "$out/vw.jsonl" && ok || bad "and says why"
works "the longer answer" $judge score "$out/world.jsonl" --by length --json
near "wins" wins 2 0
near "losses" losses 3 0
says "it is named, too" "the longer answer (built in; a baseline, it knows nothing of quality)"
reward="$judge score $out/answers.jsonl --by reward"
works "a model's reward" $reward --judge-model "$out/m2" --judge-reference "$out/m1" --json --output "$out/vr.jsonl"
near "all are judged" pairs 70 0
near "the data that it learned are better" win_rate.rate 0 0.3
says "named" "implicit reward of .*/m2 against .*/m1, beta 0.1 (built in)"
works "beta" $reward --judge-model "$out/m2" --judge-reference "$out/m1" --json --beta 3
near "changes no verdict" wins "$(grep -c '"outcome": "win"' "$out/vr.jsonl")" 0
works "against itself" $reward --judge-model "$out/m1" --judge-reference "$out/m1" --json
near "all is equal" ties 70 0
# An adapter as the judge of the pairs that it was trained on: what dpo-train itself says of them.
head -n 70 "$out/hh.jsonl" >"$out/hh70.jsonl"
$train dpo --model "$out/m1" --output "$out/lora" --train "$out/hh70.jsonl" --eval "$out/hh70.jsonl" --eval-size 0 --lora-r 2 --max-steps 6 \
    --batch-size 8 --learning-rate 1e-3 --warmup-steps 0 --sample-prompts 0 >"$out/log" 2>"$out/err" </dev/null || bad "an adapter"
sed 's/{"chosen": "\(.*Assistant:\)\(.*\)", "rejected": ".*Assistant:\(.*\)"}/{"prompt": "\1", "policy": "\2", "chosen": "\3", "chat_format": "hh"}/' \
    "$out/hh70.jsonl" >"$out/pairs.jsonl"
trained() { grep eval_rewards "$out/lora/metrics.jsonl" | tail -n 1 | sed "s/.*\"eval_rewards.$1\": \([^,}]*\).*/\1/"; }
works "an adapter's reward" $judge score "$out/pairs.jsonl" --by reward --judge-model "$out/m1" --judge-adapter "$out/lora/adapter" \
    --output "$out/vl.jsonl" --json
near "all pairs" pairs 70 0
near "the win rate is training's accuracy" win_rate.rate "$(trained accuracies)" 1e-9
margin=$(sed 's/.*"note": "\(.*\)"}/\1/' "$out/vl.jsonl" | awk '{ sum += $1 - $3 } END { printf "%.9f", sum / NR }')
echo "$margin $(trained margins)" | awk '{ d = $1 - $2; exit !(NF == 2 && $2 > 0.001 && d < 1e-6 && d > -1e-6) }' && ok ||
    bad "the margin is training's: $margin, $(trained margins)"
refuses "a reward without reference" "expects --judge-model DIR with --judge-reference" $reward --judge-model "$out/m1"
refuses "no judge" "expected --by world, length or reward" $judge score "$out/world.jsonl"
works "by the other model's answers" $judge score "$out/two.jsonl" --by length --json
near "six" pairs 6 0
works "or the data's" $judge score "$out/two.jsonl" --by length --json --baseline chosen
near "six" pairs 6 0
if [ -c /dev/full ]; then
    $judge report "$out/v.jsonl" >/dev/full 2>"$out/err"
    [ $? = 1 ] && ok || bad "a full disk: exit status 1"
    ln -sf /dev/full "$out/full.jsonl"
    refuses "results on a full disk" "cannot write" $judge run "$out/q.jsonl" --output "$out/full.jsonl" --cmd "sh $out/judge.good"
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
