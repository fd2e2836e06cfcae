-- Every statement of the journal. A line "name:" begins one; the sentence below it says what it does.

-- insert_call:
-- Record a call as under way.
INSERT INTO calls (
    base_url, mode, account, key, key_origin, tool, customer, moves_money, amount, currency, reference, arguments,
    has_stated_effect, path, body, api_version, is_tagged, context_id, agent_type, "user",
    state, is_final, attempts, created_at, updated_at, spent_at, owner, owner_host, owner_pid, lease_until
) VALUES (
    :base_url, :mode, :account, :key, :key_origin, :tool, :customer, :moves_money, :amount, :currency, :reference,
    :arguments, :has_stated_effect, :path, :body, :api_version, :is_tagged, :context_id, :agent_type, :user,
    'sending', 0, 0, :now, :now, :until, :owner, :owner_host, :owner_pid, :until
)

-- take_over:
-- Let another owner send a recorded call again.
UPDATE calls SET
    state = 'sending', owner = :owner, owner_host = :owner_host, owner_pid = :owner_pid, lease_until = :until,
    spent_at = :until, updated_at = :now
WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account

-- delete_call:
-- Forget a call of which nothing was sent.
DELETE FROM calls WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account

-- settle:
-- Record an outcome, unless a final one is on record, or another owner has the call and this one is not final.
UPDATE calls SET
    state = :state, is_final = :is_final, attempts = attempts + :attempts, status = :status,
    request_id = :request_id, answer = :answer, transaction_id = :transaction_id, note = :note, warnings = :warnings,
    updated_at = :now, spent_at = CASE WHEN :is_found_later THEN spent_at ELSE :now END,
    owner = '', owner_host = NULL, owner_pid = NULL, lease_until = 0
WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account
    AND NOT is_final AND (:is_final OR owner = :owner)

-- call_of_key:
-- The call of that key in that scope; else the one that the call of that key joined.
SELECT * FROM calls
WHERE base_url = :base_url AND mode = :mode AND account = :account AND key IN (:key, (
    SELECT first_key FROM joined WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account))
ORDER BY key = :key DESC LIMIT 1

-- call_of_reference:
-- The first call of the same business reason that moved money or may have. The pluses keep SQLite from taking the
-- index that has all calls of the customer in order.
SELECT * FROM calls
WHERE reference = :reference AND customer = :customer AND tool = :tool AND base_url = :base_url AND mode = :mode
    AND account = :account AND state IN ('sending', 'succeeded', 'unknown')
ORDER BY +created_at, +id LIMIT 1

-- customer_of_transaction:
-- The customer of the call that made an entry.
SELECT customer FROM calls
WHERE transaction_id = :transaction_id AND base_url = :base_url AND mode = :mode AND account = :account LIMIT 1

-- calls:
-- Calls in some states since a time, oldest first; of one customer or of all.
SELECT * FROM calls
WHERE created_at >= :since AND state IN (:state_0, :state_1, :state_2, :state_3, :state_4)
    AND (:customer IS NULL OR customer = :customer)
ORDER BY created_at, id

-- calls_of_key:
-- The calls of that key in every scope, oldest first.
SELECT * FROM calls WHERE key = :key ORDER BY created_at, id

-- calls_of_customer:
-- The calls of one customer in every scope, oldest first.
SELECT * FROM calls WHERE customer = :customer ORDER BY created_at, id

-- open_calls:
-- Calls whose outcome is to be found out, oldest first.
SELECT * FROM calls
WHERE state IN ('sending', 'unknown') AND base_url = :base_url AND mode = :mode ORDER BY created_at, id

-- any_call:
-- Whether the table can be read.
SELECT 1 FROM calls LIMIT 1

-- keep_window:
-- Let no pruning delete what the rules count within that window.
INSERT INTO windows SELECT :window_s WHERE NOT EXISTS (SELECT 1 FROM windows WHERE longest_s >= :window_s)

-- longest_window:
-- How far back the rules of every policy used so far count.
SELECT COALESCE(MAX(longest_s), 0) FROM windows

-- prune:
-- Delete calls that are settled and that no rule counts any more.
DELETE FROM calls
WHERE updated_at < :before AND spent_at < :before AND state NOT IN ('sending', 'unknown')
    AND (:with_references OR reference IS NULL OR state != 'succeeded')

-- insert_decision:
-- Add a decision to the audit.
INSERT INTO decisions (
    at, decision, rule, who, reason, base_url, mode, account, key, tool, customer, moves_money, amount, currency,
    reference, context_id, agent_type, "user"
) VALUES (
    :at, :decision, :rule, :who, :reason, :base_url, :mode, :account, :key, :tool, :customer, :moves_money, :amount,
    :currency, :reference, :context_id, :agent_type, :user
)

-- decisions:
-- The audit, oldest first.
SELECT * FROM decisions ORDER BY number

-- decisions_of_key:
-- The audit of one key, oldest first.
SELECT * FROM decisions WHERE key = :key ORDER BY number

-- insert_proposal:
-- Put a call to a person.
INSERT INTO proposals (
    id, base_url, mode, account, key, key_origin, tool, customer, moves_money, amount, currency, reference,
    context_id, agent_type, "user", arguments, customer_name, balance_before, rule, why, asked_at, expires_at, state
) VALUES (
    :id, :base_url, :mode, :account, :key, :key_origin, :tool, :customer, :moves_money, :amount, :currency, :reference,
    :context_id, :agent_type, :user, :arguments, :customer_name, :balance_before, :rule, :why, :asked_at, :expires_at,
    'waiting'
)

-- proposals:
-- All proposals, oldest first.
SELECT * FROM proposals ORDER BY number

-- proposal_of_key:
-- The newest proposal of that key in that scope.
SELECT * FROM proposals
WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account ORDER BY number DESC LIMIT 1

-- proposals_for_call:
-- The newest proposal of that key in that scope, the one that the call of that key joined, and what stands for the same
-- intent; the first of these first. A question at somebody's terminal is about that person's own command alone, and a
-- program that names a decision anew, without a reason that says otherwise, means another.
SELECT * FROM proposals WHERE number IN (
    SELECT MAX(number) FROM proposals
    WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account
    UNION ALL SELECT MAX(number) FROM proposals
    WHERE base_url = :base_url AND mode = :mode AND account = :account AND key = (
        SELECT first_key FROM joined WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account)
    UNION ALL SELECT MIN(number) FROM proposals
    WHERE customer = :customer AND state IN ('waiting', 'approved') AND expires_at > :now AND rule != 'ask_always'
        AND base_url = :base_url AND mode = :mode AND account = :account AND tool = :tool AND amount = :amount
        AND currency = :currency AND reference IS :reference AND (moves_money OR arguments = :arguments)
        AND (:key_origin != 'caller' OR reference IS NOT NULL)
)
ORDER BY key = :key DESC, state NOT IN ('waiting', 'approved'), number

-- join_key:
-- Give the call of a key another name: that of the call whose proposal it joined.
INSERT INTO joined VALUES (:key, :base_url, :mode, :account, :first_key)
ON CONFLICT DO UPDATE SET first_key = excluded.first_key WHERE first_key != excluded.first_key

-- proposal_of_id:
-- The proposal of that ID.
SELECT * FROM proposals WHERE id = :id

-- decide_proposal:
-- Record what became of a proposal.
UPDATE proposals SET state = :state, decided_at = :now, decided_by = :by, reason = :reason WHERE id = :id

-- close_proposal:
-- Record a decision that is for one call alone: its time is over at once.
UPDATE proposals SET state = :state, decided_at = :now, decided_by = :by, reason = :reason, expires_at = :now
WHERE id = :id AND state != 'used'

-- end_proposal:
-- Mark a proposal as used or expired; who decided stays.
UPDATE proposals SET state = :state WHERE id = :id

-- spent:
-- Minor units that moved, or may have, within a window; by the calls of one user, agent type or context, or of all.
SELECT COALESCE(SUM(ABS(amount)), 0) FROM calls
WHERE base_url = :base_url AND mode = :mode AND account = :account AND key != :key AND currency = :currency
    AND spent_at > :since AND amount * :sign > 0 AND state IN ('sending', 'succeeded', 'unknown')
    AND (:per = 'all' OR :whose = CASE :per
        WHEN 'user' THEN COALESCE("user", '') WHEN 'agent_type' THEN agent_type ELSE context_id END)

-- spent_on_customer:
-- The same for one customer. The calls of one are few, so they are found by customer; the plus keeps SQLite from
-- finding them by currency and time.
SELECT COALESCE(SUM(ABS(amount)), 0) FROM calls
WHERE base_url = :base_url AND mode = :mode AND account = :account AND key != :key AND +currency = :currency
    AND spent_at > :since AND amount * :sign > 0 AND state IN ('sending', 'succeeded', 'unknown')
    AND customer = :customer

-- spending:
-- When each of those calls moved money at the latest, and how much, oldest first.
SELECT spent_at, ABS(amount) FROM calls
WHERE base_url = :base_url AND mode = :mode AND account = :account AND key != :key AND currency = :currency
    AND spent_at > :since AND amount * :sign > 0 AND state IN ('sending', 'succeeded', 'unknown')
    AND (:per = 'all' OR :whose = CASE :per
        WHEN 'user' THEN COALESCE("user", '') WHEN 'agent_type' THEN agent_type WHEN 'customer' THEN customer
        ELSE context_id END)
ORDER BY spent_at

-- includes_this_call:
-- Whether the call itself is on record and counts within a window.
SELECT 1 FROM calls
WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account AND spent_at > :since
    AND state IN ('sending', 'succeeded', 'unknown')

-- calls_since:
-- When calls were let through since a time, oldest first; the same key again counts again.
SELECT at FROM decisions
WHERE decision = 'allowed' AND at > :since AND base_url = :base_url AND mode = :mode AND account = :account ORDER BY at

-- duplicate_of:
-- The newest other call since a time to the same customer with the same amount and currency, which moved money or may
-- have, and is not told apart by a reference.
SELECT * FROM calls
WHERE base_url = :base_url AND mode = :mode AND account = :account AND key != :key AND customer = :customer
    AND created_at > :since AND amount = :amount AND currency = :currency AND tool = :tool
    AND state IN ('sending', 'succeeded', 'unknown')
    AND (reference IS NULL OR :reference IS NULL OR reference = :reference)
ORDER BY created_at DESC, id DESC LIMIT 1

-- denial_of_key:
-- A person's no to this very key.
SELECT * FROM decisions
WHERE key = :key AND decision = 'denied' AND base_url = :base_url AND mode = :mode AND account = :account
ORDER BY number DESC LIMIT 1

-- denial_of_like:
-- A person's no to the same business reason, or since a time to the same amount, under another key.
SELECT * FROM decisions
WHERE decision = 'denied' AND customer = :customer AND base_url = :base_url AND mode = :mode AND account = :account
    AND (reference = :reference OR (amount = :amount AND currency = :currency AND at > :since))
ORDER BY number DESC LIMIT 1

-- other_currency:
-- Another call since a time for this customer in another currency that moved money or may have.
SELECT * FROM calls
WHERE base_url = :base_url AND mode = :mode AND account = :account AND key != :key AND customer = :customer
    AND currency != :currency AND moves_money AND spent_at > :since
    AND state IN ('sending', 'succeeded', 'unknown')
ORDER BY created_at, id LIMIT 1
