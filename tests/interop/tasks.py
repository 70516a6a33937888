"""The request texts of the multiple-choice tasks in ../shared/data/tasks, made from the rules alone (no code of
tools/formats/tasks.h), and the SHA-256 of the first 25 items of each: what tests/golden/tasks/real.sha256 holds.

usage: python3 tests/interop/tasks.py [DIRECTORY] > tests/golden/tasks/real.sha256

A line: task, hash, file, labels file or -. Hashed are, for each item: for each choice context, 0x1f, continuation,
0x1e; then the right choice's number and a newline; all UTF-8."""
import hashlib, json, os, sys

DIRECTORY = sys.argv[1] if len(sys.argv) > 1 else "../shared/data/tasks"


def same(context, choices, gold):
    return [(context, " " + c) for c in choices], gold


def lettered(row, context):
    return same(context, row["choices"]["text"], row["choices"]["label"].index(row["answerKey"]))


def arc(row):
    return lettered(row, f"Question: {row['question']}\nAnswer:")


def openbookqa(row):
    return lettered(row, row["question_stem"])


def hellaswag(row):  # this file is cleaned already
    return same(row["query"], row["choices"], int(row["gold"]))


def piqa(row):
    return same(f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], int(row["label"]))


def winogrande(row):
    i = row["sentence"].index("_")
    rest = " " + row["sentence"][i + 1:].strip()
    return [(row["sentence"][:i] + row[o], rest) for o in ("option1", "option2")], int(row["answer"]) - 1


def boolq(row):
    return same(f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", ["no", "yes"], int(row["answer"]))


def social_iqa(row):
    return same(f"Q: {row['context']} {row['question']}\nA:", [row["answerA"], row["answerB"], row["answerC"]],
                int(row["label"]) - 1)


def sciq(row):
    return same(f"{row['support'].lstrip()}\nQuestion: {row['question']}\nAnswer:",
                [row["distractor1"], row["distractor2"], row["distractor3"], row["correct_answer"]], 3)


def lambada(row):
    words = row["text"].split(" ")
    return [(" ".join(words[:-1]), " " + words[-1])], 0


FILES = [("arc_challenge", arc, "ai2_arc_ARC-Challenge.validation.jsonl", None),
         ("arc_easy", arc, "ai2_arc_ARC-Easy.validation.jsonl", None),
         ("openbookqa", openbookqa, "openbookqa_main.validation.jsonl", None),
         ("hellaswag", hellaswag, "hellaswag.preprocessed.1000.jsonl", None),
         ("piqa", piqa, "piqa_plain_text.validation.jsonl", None),
         ("piqa", piqa, "piqa.original.valid.jsonl", "piqa.original.valid-labels.lst"),
         ("winogrande", winogrande, "winogrande_winogrande_xl.validation.jsonl", None),
         ("boolq", boolq, "boolq.validation.600.jsonl", None),
         ("social_iqa", social_iqa, "social_i_qa.validation.jsonl", None),
         ("sciq", sciq, "sciq.validation.jsonl", None),
         ("lambada", lambada, "lambada_openai.1000.jsonl", None)]
for name, rule, file, labels in FILES:
    with open(os.path.join(DIRECTORY, file), encoding="utf-8") as f:
        rows = [json.loads(line) for line in f.read().split("\n")[:25]]
    if labels:
        with open(os.path.join(DIRECTORY, labels)) as f:
            for row, label in zip(rows, f.read().split()):
                row["label"] = label
    h = hashlib.sha256()
    for row in rows:
        requests, gold = rule(row)
        for context, continuation in requests:
            h.update((context + "\x1f" + continuation + "\x1e").encode())
        h.update(f"{gold}\n".encode())
    print(name, h.hexdigest(), file, labels or "-")
