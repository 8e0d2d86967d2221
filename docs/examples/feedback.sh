#!/bin/bash
# RATCHET_URL=http://127.0.0.1:8000 RATCHET_KEY=rk_... bash feedback.sh
set -euo pipefail
api() { curl --silent --show-error --fail-with-body -H "Authorization: Bearer $RATCHET_KEY" "$@"; }
json='Content-Type: application/json'

# An answer that your own stack made.
answer=$(api "$RATCHET_URL/api/v1/completions" -H "$json" -d '{
  "messages": [{"role": "user", "content": "How long does an egg boil?"}],
  "text": "Eight minutes.", "version_label": "mine-1"}')
id=$(grep -o '"id":"[^"]*"' <<<"$answer" | head -1 | cut -d'"' -f4)
echo "completion $id"

# A thumb from one of your users. Sent again under the same Idempotency-Key it is done once.
thumb='{"kind": "rating", "completion_id": "'$id'", "value": 1, "subject": "user-18", "reasons": ["correct"]}'
for _ in 1 2; do
  api "$RATCHET_URL/api/v1/feedback" -H "$json" -H "Idempotency-Key: thumb-of-user-18-$id" -d "$thumb" | grep -o '"value":1'
done

# Many at once: a result for each.
api "$RATCHET_URL/api/v1/feedback/batch" -H "$json" -d '{"items": [
  {"kind": "rating", "completion_id": "'"$id"'", "value": -1, "subject": "user-19"},
  {"kind": "flag", "completion_id": "'"$id"'", "reason": "spam", "subject": "user-19"}]}' | grep -o '"status":201'

# Prompts, one JSON object a line, from a file or a pipe of any length.
for n in 1 2 3; do
  echo '{"messages": [{"role": "user", "content": "Shell question '$n'?"}]}'
done | api "$RATCHET_URL/api/v1/prompts" -H 'Content-Type: application/x-ndjson' -H 'Transfer-Encoding: chunked' -T - -X POST
echo

# What one user said.
api "$RATCHET_URL/api/v1/feedback?subject=user-19&limit=10" | grep -o '"kind":"[a-z]*"'
