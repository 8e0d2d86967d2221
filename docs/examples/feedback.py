"""Send answers of your own stack and what people say about them.

RATCHET_URL=http://127.0.0.1:8000 RATCHET_KEY=rk_... python feedback.py
"""

import os

from ratchet_client import Ratchet, RatchetError

with Ratchet(os.environ["RATCHET_URL"], os.environ["RATCHET_KEY"]) as ratchet:
    # Two answers to one question, made elsewhere.
    asked = [{"role": "user", "content": "How long does an egg boil?"}]
    short = ratchet.add_completion(messages=asked, text="Eight minutes.", version_label="mine-1")
    long = ratchet.add_completion(messages=asked, text="It depends on the egg.", version_label="mine-2")

    # A thumb from one of your users. Twice by the same user on the same answer is refused by name.
    first = ratchet.rate(short["id"], 1, subject="user-17", reasons=["correct"])
    try:
        ratchet.rate(short["id"], -1, subject="user-17")
    except RatchetError as error:
        print(error.code, "first was", error.error["id"] == first["id"])
    # A changed mind says what it replaces.
    ratchet.rate(short["id"], -1, subject="user-17", supersedes=first["id"])

    # The left one was better. Corrections are whole texts.
    ratchet.prefer([short["id"], long["id"]], [1, 2], subject="user-17")
    ratchet.correct(long["id"], "Eight minutes, for a medium egg.", subject="user-17")

    # Hundreds at once; each stands or falls by itself.
    thumb = {"kind": "rating", "completion_id": long["id"], "value": 1}
    results = ratchet.judge_all({**thumb, "subject": f"visitor-{n}"} for n in range(600))
    print(sum(result["status"] == 201 for result in results), "thumbs recorded")

    # Prompts by the line, in one request of any size.
    texts = (f"Question {n}?" for n in range(1000))
    lines = ({"messages": [{"role": "user", "content": text}], "tags": ["demo"]} for text in texts)
    print(ratchet.add_prompts(lines)["created"], "prompts created")

    # Read it back, page by page or as one stream.
    print(sum(1 for _ in ratchet.feedback(subject="user-17")), "judgements of user-17")
    print(sum(1 for _ in ratchet.export()), "judgements in all")
