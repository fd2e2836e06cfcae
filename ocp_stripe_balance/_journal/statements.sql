-- Every statement of the journal. A line "name:" begins one; the sentence below it says what it does.

-- insert_call:
-- Record a call as under way.
INSERT INTO calls (
    base_url, mode, account, key, key_origin, tool, customer, moves_money, amount, currency, reference, arguments,
    has_stated_effect, path, body, api_version, is_tagged, context_id, agent_type, "user",
    state, is_final, attempts, created_at, updated_at, spent_at, owner, owner_host, owner_pid, owner_began,
    lease_until
) VALUES (
    :base_url, :mode, :account, :key, :key_origin, :tool, :customer, :moves_money, :amount, :currency, :reference,
    :arguments, :has_stated_effect, :path, :body, :api_version, :is_tagged, :context_id, :agent_type, :user,
    'sending', FALSE, 0, :now, :now, :until, :owner, :owner_host, :owner_pid, :owner_began, :until
)

-- take_over:
-- Let another owner send a recorded call again.
UPDATE calls SET
    state = 'sending', owner = :owner, owner_host = :owner_host, owner_pid = :owner_pid, owner_began = :owner_began,
    lease_until = :until, spent_at = :until, updated_at = :now
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
    owner = '', owner_host = NULL, owner_pid = NULL, owner_began = NULL, lease_until = 0
WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account
    AND NOT is_final AND (:is_final OR owner = :owner)

-- call_of_key:
-- The call of that key in that scope; else the one that the call of that key joined.
SELECT * FROM calls
WHERE base_url = :base_url AND mode = :mode AND account = :account AND key IN (:key, (
    SELECT first_key FROM joined WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account))
ORDER BY key = :key DESC LIMIT 1

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

-- moved:
-- Calls that moved money within a time, some at once, oldest first.
SELECT * FROM calls
WHERE moves_money AND state NOT IN ('rejected', 'not_sent') AND state = 'succeeded'
    AND (spent_at, id) > (:since, :row) AND spent_at < :before
ORDER BY spent_at, id LIMIT :number

-- calls_of_key:
-- The calls of that key in every scope, oldest first.
SELECT * FROM calls WHERE key = :key ORDER BY created_at, id

-- calls_of_customer:
-- The calls of one customer in every scope, oldest first.
SELECT * FROM calls WHERE customer = :customer ORDER BY created_at, id

-- calls_of_reference:
-- The calls for that business reason in every scope, oldest first.
SELECT * FROM calls WHERE reference = :reference ORDER BY created_at, id

-- open_calls:
-- Calls whose outcome is to be found out, oldest first.
SELECT * FROM calls
WHERE state IN ('sending', 'unknown') AND base_url = :base_url AND mode = :mode ORDER BY created_at, id

-- open_keys:
-- The keys under which calls are found whose outcome is to be found out: their own, and those that joined one.
SELECT key FROM calls
WHERE state IN ('sending', 'unknown') AND base_url = :base_url AND mode = :mode AND account = :account
UNION SELECT joined.key FROM calls JOIN joined USING (base_url, mode, account)
WHERE state IN ('sending', 'unknown') AND base_url = :base_url AND mode = :mode AND account = :account
    AND first_key = calls.key

-- ended_keys:
-- The keys, of some, whose own calls ended for good; not those that a program gave to a call of its own.
SELECT key FROM calls
WHERE base_url = :base_url AND mode = :mode AND account = :account AND is_final
    AND key_origin IN ('reference', 'reversal') AND key IN (SELECT value FROM json_each(:keys))

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
) RETURNING number

-- decisions:
-- The audit, oldest first.
SELECT * FROM decisions ORDER BY number

-- decisions_of_key:
-- The audit of one key, oldest first.
SELECT * FROM decisions WHERE key = :key ORDER BY number

-- recent_refusals:
-- What was refused among the last decisions, newest first; of one key and the one that it joined, or of all.
SELECT * FROM (SELECT * FROM decisions ORDER BY number DESC LIMIT 10000) AS recent
WHERE decision = 'refused' AND (:key IS NULL OR key IN (:key, (
    SELECT first_key FROM joined WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account)))

-- insert_proposal:
-- Put a call to a person.
INSERT INTO proposals (
    id, base_url, mode, account, key, key_origin, tool, customer, moves_money, amount, currency, reference,
    context_id, agent_type, "user", arguments, customer_name, balance_before, rule, why, asked_at, expires_at, needed,
    state
) VALUES (
    :id, :base_url, :mode, :account, :key, :key_origin, :tool, :customer, :moves_money, :amount, :currency, :reference,
    :context_id, :agent_type, :user, :arguments, :customer_name, :balance_before, :rule, :why, :asked_at, :expires_at,
    :needed, 'waiting'
)

-- proposals:
-- All proposals, oldest first.
SELECT * FROM proposals ORDER BY number

-- recent_proposals:
-- The last proposals, newest first; of one key and the one that it joined, or of all.
SELECT * FROM (SELECT * FROM proposals ORDER BY number DESC LIMIT 10000) AS recent
WHERE :key IS NULL OR key IN (:key, (
    SELECT first_key FROM joined WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account))

-- join_key:
-- Give the call of a key another name: that of the call, or of its proposal, that it joined.
INSERT INTO joined VALUES (:key, :base_url, :mode, :account, :first_key)
ON CONFLICT (key, base_url, mode, account) DO UPDATE SET first_key = excluded.first_key
WHERE joined.first_key != excluded.first_key

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

-- expire_proposal:
-- Mark a proposal as expired, unless others have decided, used or marked it meanwhile.
UPDATE proposals SET state = 'expired' WHERE id = :id AND state = :state

-- use_up_proposal:
-- Mark a proposal as used; who decided stays.
UPDATE proposals SET state = 'used' WHERE id = :id

-- reopen_proposal:
-- Let a proposal wait again, for as many people as have to say yes.
UPDATE proposals SET state = 'waiting', needed = :needed, decided_at = NULL, decided_by = NULL, reason = NULL
WHERE id = :id

-- insert_vote:
-- Record what a person said to a proposal.
INSERT INTO votes (proposal, is_approved, person, who, how, at, reason, shown)
VALUES (:id, :is_approved, :person, :by, :how, :now, :reason, :shown)

-- votes:
-- What people said to proposals, oldest first.
SELECT * FROM votes ORDER BY number

-- votes_of:
-- What people said to one proposal, oldest first.
SELECT * FROM votes WHERE proposal = :id ORDER BY number

-- look:
-- Where on record there is something that stands around a call: under its key, for its reason, or like it. Each is
-- found by an index of its own, whatever number of calls there is.
SELECT
    -- Of its key, or else of the key that it joined.
    COALESCE(
        (SELECT id FROM calls WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account),
        (SELECT calls.id FROM joined JOIN calls USING (base_url, mode, account)
            WHERE joined.key = :key AND base_url = :base_url AND mode = :mode AND account = :account
                AND calls.key = first_key)) AS call,
    -- The first call of the same business reason that moved money or may have. Reversals of two entries are never one:
    -- Stripe's IDs tell upper and lower case apart, and references do not.
    (SELECT MIN(id) FROM calls
        WHERE reference = :reference AND customer = :customer AND tool = :tool AND base_url = :base_url
            AND mode = :mode AND account = :account AND state NOT IN ('rejected', 'not_sent')
            AND (key_origin != 'reversal' OR :key_origin != 'reversal')) AS same_reason,
    (SELECT MAX(number) FROM proposals
        WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account) AS proposal,
    (SELECT MAX(number) FROM joined JOIN proposals USING (base_url, mode, account)
        WHERE joined.key = :key AND base_url = :base_url AND mode = :mode AND account = :account
            AND proposals.key = first_key) AS joined_proposal,
    -- What stands for the same intent. A question at somebody's terminal is about that person's own command alone, and a
    -- program that names a decision anew, without a reason that says otherwise, means another.
    (SELECT MIN(number) FROM proposals
        WHERE customer = :customer AND state IN ('waiting', 'approved') AND expires_at > :now AND rule != 'ask_always'
            AND base_url = :base_url AND mode = :mode AND account = :account AND tool = :tool AND amount = :amount
            AND currency = :currency AND (reference = :reference OR reference IS NULL AND :reference IS NULL)
            AND (moves_money OR arguments = :arguments)
            AND (:key_origin != 'caller' OR reference IS NOT NULL)
            AND (key_origin != 'reversal' OR :key_origin != 'reversal')) AS alike_proposal,
    -- A person's no to this very key; to the same business reason; or since a time to the same amount.
    (SELECT MAX(number) FROM decisions
        WHERE key = :key AND decision = 'denied' AND base_url = :base_url AND mode = :mode AND account = :account
    ) AS denied_key,
    (SELECT MAX(number) FROM decisions
        WHERE decision = 'denied' AND customer = :customer AND reference = :reference AND base_url = :base_url
            AND mode = :mode AND account = :account) AS denied_reason,
    (SELECT number FROM decisions
        WHERE decision = 'denied' AND customer = :customer AND currency = :currency AND amount = :amount
            AND at > :denied_since AND base_url = :base_url AND mode = :mode AND account = :account
        ORDER BY at DESC LIMIT 1) AS denied_amount,
    -- The newest other call to the same customer with the same amount and currency, which moved money or may have, and
    -- is not told apart by a reference: of a call without one; of a call with one, without or with the same.
    (SELECT id FROM calls
        WHERE :reference IS NULL AND customer = :customer AND currency = :currency AND amount = :amount
            AND state NOT IN ('rejected', 'not_sent') AND key != :key AND tool = :tool
            AND base_url = :base_url AND mode = :mode AND account = :account
        ORDER BY created_at DESC LIMIT 1) AS alike,
    (SELECT id FROM calls
        WHERE :reference IS NOT NULL AND reference IS NULL AND customer = :customer AND currency = :currency
            AND amount = :amount AND state NOT IN ('rejected', 'not_sent') AND key != :key AND tool = :tool
            AND base_url = :base_url AND mode = :mode AND account = :account
        ORDER BY created_at DESC LIMIT 1) AS alike_unnamed,
    (SELECT MAX(id) FROM calls
        WHERE reference = :reference AND customer = :customer AND currency || '' = :currency AND amount + 0 = :amount
            AND state NOT IN ('rejected', 'not_sent') AND key != :key AND tool = :tool
            AND base_url = :base_url AND mode = :mode AND account = :account
            AND (key_origin != 'reversal' OR :key_origin != 'reversal')) AS alike_named

-- other_currency:
-- Another call since a time for this customer in another currency that moved money or may have.
SELECT MIN(id) FROM (
    SELECT id FROM calls
    WHERE customer = :customer AND currency < :currency AND moves_money AND spent_at > :since AND key != :key
        AND state NOT IN ('rejected', 'not_sent') AND base_url = :base_url AND mode = :mode
        AND account = :account
    UNION ALL
    SELECT id FROM calls
    WHERE customer = :customer AND currency > :currency AND moves_money AND spent_at > :since AND key != :key
        AND state NOT IN ('rejected', 'not_sent') AND base_url = :base_url AND mode = :mode
        AND account = :account
) AS others

-- call_of_id:
-- The call in that row.
SELECT * FROM calls WHERE id = :row

-- decision_of_number:
-- That decision.
SELECT * FROM decisions WHERE number = :number

-- proposal_of_key:
-- The newest proposal of that key in that scope.
SELECT * FROM proposals
WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account ORDER BY number DESC LIMIT 1

-- proposal_of_number:
-- That proposal.
SELECT * FROM proposals WHERE number = :number

-- totals:
-- What every window that some policy counts has for a call, and whether something has left the window since.
SELECT totalled.per, totalled.window_s, since, COALESCE(total, 0) AS total,
    CASE WHEN totalled.per = 'calls'
        THEN EXISTS (SELECT 1 FROM decisions WHERE decision = 'allowed'
            AND at > CASE WHEN since < :now - totalled.window_s THEN since ELSE :now - totalled.window_s END
            AND at <= CASE WHEN since < :now - totalled.window_s THEN :now - totalled.window_s ELSE since END)
        ELSE EXISTS (SELECT 1 FROM calls WHERE moves_money AND state NOT IN ('rejected', 'not_sent')
            AND spent_at > CASE WHEN since < :now - totalled.window_s THEN since ELSE :now - totalled.window_s END
            AND spent_at <= CASE WHEN since < :now - totalled.window_s THEN :now - totalled.window_s ELSE since END)
    END AS is_behind
FROM totalled LEFT JOIN totals ON totals.per = totalled.per AND totals.window_s = totalled.window_s
    AND whose = CASE totalled.per WHEN 'customer' THEN :customer WHEN 'user' THEN COALESCE(:user, '')
        WHEN 'agent_type' THEN :agent_type WHEN 'context' THEN :context_id ELSE '' END
    AND base_url = :base_url AND mode = :mode AND account = :account
    AND currency = CASE totalled.per WHEN 'calls' THEN '' ELSE :currency END
    AND sign = CASE WHEN totalled.per = 'calls' THEN 0 WHEN :amount > 0 THEN 1 ELSE -1 END

-- move_total:
-- Add what moved between two times to the totals of a window, or take it out.
INSERT INTO totals
SELECT
    :per, :window_s,
    CASE :per WHEN 'customer' THEN customer WHEN 'user' THEN COALESCE("user", '')
        WHEN 'agent_type' THEN agent_type WHEN 'context' THEN context_id ELSE '' END,
    base_url, mode, account, currency, CASE WHEN amount > 0 THEN 1 ELSE -1 END, CAST(:factor * SUM(ABS(amount)) AS BIGINT)
FROM calls
WHERE moves_money AND state NOT IN ('rejected', 'not_sent') AND spent_at > :after AND spent_at <= :until
GROUP BY 3, 4, 5, 6, 7, 8
ON CONFLICT (per, window_s, whose, base_url, mode, account, currency, sign)
DO UPDATE SET total = totals.total + excluded.total

-- move_count:
-- The same for the calls that were let through.
INSERT INTO totals
SELECT :per, :window_s, '', base_url, mode, account, '', 0, :factor * COUNT(*)
FROM decisions
WHERE decision = 'allowed' AND at > :after AND at <= :until
GROUP BY 4, 5, 6
ON CONFLICT (per, window_s, whose, base_url, mode, account, currency, sign)
DO UPDATE SET total = totals.total + excluded.total

-- begin_total:
-- From when on the totals of a window hold.
INSERT INTO totalled VALUES (:per, :window_s, :since) ON CONFLICT (per, window_s) DO UPDATE SET since = excluded.since

-- stale_windows:
-- Windows that no policy has asked for in a long time.
SELECT per, window_s FROM totalled WHERE since < :now - 2 * window_s - 86400

-- end_total:
-- Keep the totals of a window no longer.
DELETE FROM totalled WHERE per = :per AND window_s = :window_s

-- drop_totals:
-- Forget the totals of a window.
DELETE FROM totals WHERE per = :per AND window_s = :window_s

-- drop_empty_totals:
-- Forget totals in which nothing is left.
DELETE FROM totals WHERE total = 0

-- forget_windows:
-- Let every window be added up anew when it is asked for next.
DELETE FROM totalled

-- forget_totals:
-- Forget the totals of every window.
DELETE FROM totals

-- wrong_totals:
-- Totals that are not what the rows add up to, and by how much they are too high.
SELECT per, window_s, whose, base_url, mode, account, currency, sign, CAST(SUM(total) AS BIGINT) AS excess FROM (
    SELECT per, window_s, whose, base_url, mode, account, currency, sign, total FROM totals
    UNION ALL
    SELECT
        per, window_s,
        CASE per WHEN 'customer' THEN customer WHEN 'user' THEN COALESCE("user", '')
            WHEN 'agent_type' THEN agent_type WHEN 'context' THEN context_id ELSE '' END,
        base_url, mode, account, currency, CASE WHEN amount > 0 THEN 1 ELSE -1 END, -ABS(amount)
    FROM totalled JOIN calls ON per != 'calls' AND spent_at > since
    WHERE moves_money AND state NOT IN ('rejected', 'not_sent')
    UNION ALL
    SELECT per, window_s, '', base_url, mode, account, '', 0, -1
    FROM totalled JOIN decisions ON per = 'calls' AND decision = 'allowed' AND at > since
) AS both_sides GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 HAVING SUM(total) != 0

-- spending:
-- When each call within a window moved money at the latest, and how much, oldest first.
SELECT spent_at, CASE
    WHEN key != :key AND base_url = :base_url AND mode = :mode AND account = :account AND currency = :currency
        AND amount * :amount > 0 AND :whose = CASE :per WHEN 'customer' THEN customer
            WHEN 'user' THEN COALESCE("user", '') WHEN 'agent_type' THEN agent_type WHEN 'context' THEN context_id
            ELSE '' END
    THEN ABS(amount) ELSE 0 END
FROM calls
WHERE moves_money AND state NOT IN ('rejected', 'not_sent') AND spent_at > :since
ORDER BY spent_at LIMIT :number

-- let_through:
-- When the call was let through that is that many back within a window; the same key again counts again.
SELECT at FROM decisions
WHERE decision = 'allowed' AND at > :since AND base_url = :base_url AND mode = :mode AND account = :account
ORDER BY at DESC LIMIT 1 OFFSET :number

-- share:
-- Leave word that a process calls Stripe at that pace.
INSERT INTO shares VALUES (:pace, :owner, :until)
ON CONFLICT (pace, owner) DO UPDATE SET until = excluded.until

-- end_shares:
-- Forget processes that have left no word lately.
DELETE FROM shares WHERE pace = :pace AND until < :now

-- sharers:
-- How many processes call Stripe at that pace.
SELECT COUNT(*) FROM shares WHERE pace = :pace
