-- What people look at, a page at a time. No statement here costs more where there are more calls.

-- of_time:
-- Calls of a time that are like what is wanted, newest first, of as many as are looked at.
SELECT * FROM (
    SELECT * FROM calls WHERE created_at >= :since AND (created_at, id) < (:until, :row)
    ORDER BY created_at DESC, id DESC LIMIT :most
) AS looked
WHERE (:state = '' OR state = :state) AND (:currency = '' OR currency = :currency)
    AND (:amount = 0 OR ABS(amount) = :amount)
ORDER BY created_at DESC, id DESC LIMIT :number

-- looked_at:
-- The last of those that were looked at, where there are that many.
SELECT created_at, id FROM calls WHERE created_at >= :since AND (created_at, id) < (:until, :row)
ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET :most

-- of_text:
-- The same of one customer, key, business reason or entry, each found by an index.
SELECT * FROM calls
WHERE id IN (
    SELECT id FROM calls WHERE customer = :text
    UNION SELECT id FROM calls WHERE key = :text
    UNION SELECT calls.id FROM joined JOIN calls USING (base_url, mode, account)
        WHERE joined.key = :text AND calls.key = first_key
    UNION SELECT id FROM calls WHERE reference = :reference
    UNION SELECT id FROM calls WHERE transaction_id = :text)
    AND created_at + 0 >= :since AND (created_at + 0, id) < (:until, :row)
    AND (:state = '' OR state = :state) AND (:currency = '' OR currency = :currency)
    AND (:amount = 0 OR ABS(amount) = :amount)
ORDER BY created_at + 0 DESC, id DESC LIMIT :number

-- alike:
-- What else moved for a customer since a time, or may have, newest first.
SELECT * FROM calls
WHERE customer = :customer AND created_at > :since AND key != :key AND state NOT IN ('rejected', 'not_sent')
ORDER BY created_at DESC, id DESC LIMIT :number

-- open:
-- Calls whose outcome is to be found out, of every server, oldest first.
SELECT * FROM calls WHERE state IN ('sending', 'unknown') ORDER BY created_at, id LIMIT :number

-- waiting:
-- What waits for a person, the first asked first.
SELECT * FROM proposals WHERE state = 'waiting' ORDER BY asked_at, number LIMIT :number

-- how_many_wait:
-- How many of them there are.
SELECT COUNT(*) FROM proposals WHERE state = 'waiting'

-- proposals_of_key:
-- The proposals of one key, oldest first.
SELECT id FROM proposals WHERE key = :key ORDER BY number

-- newest:
-- By what is seen that something was decided.
SELECT COALESCE(MAX(number), 0) FROM decisions

-- moved:
-- The newest calls that moved money since a time, or may have.
SELECT spent_at, created_at, updated_at, currency, amount, state, attempts, note FROM calls
WHERE moves_money AND state NOT IN ('rejected', 'not_sent') AND spent_at > :since
ORDER BY spent_at DESC LIMIT :number

-- refused:
-- How often each rule refused a call since a time, and when last, among the last decisions.
SELECT rule, COUNT(*) AS times, MAX(at) AS at
FROM (SELECT * FROM decisions ORDER BY number DESC LIMIT 10000) AS recent
WHERE decision = 'refused' AND at > :since GROUP BY rule ORDER BY 2 DESC, 1

-- most_used:
-- Who has used most of a budget.
SELECT whose FROM totals
WHERE per = :per AND window_s = :window_s AND base_url = :base_url AND mode = :mode AND account = :account
    AND currency = :currency AND sign = :sign AND total > 0
ORDER BY total DESC LIMIT :number
