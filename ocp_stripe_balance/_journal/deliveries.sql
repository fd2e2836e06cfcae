-- The statements about what webhooks tell, as in statements.sql.

-- news_of_decisions:
-- Decisions since a time that an endpoint has not been told of, oldest first; not what somebody at a terminal is asked
-- about their own command.
SELECT * FROM decisions
WHERE at >= :since AND decision NOT IN ('allowed', 'refused') AND rule NOT IN ('joined', 'ask_always')
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event = 'decision ' || decisions.number AND endpoint = :endpoint)
ORDER BY at, number LIMIT :number

-- news_of_calls:
-- Calls whose outcome is open, and that nobody is sending, which an endpoint has not been told of.
SELECT * FROM calls
WHERE state IN ('sending', 'unknown') AND updated_at >= :since AND (state = 'unknown' OR lease_until < :now)
    AND NOT EXISTS (
        SELECT 1 FROM deliveries WHERE event = 'call ' || calls.id || ' ' || calls.key AND endpoint = :endpoint)
ORDER BY created_at, id LIMIT :number

-- over:
-- Proposals whose time is over, which nobody has looked at since.
SELECT * FROM proposals WHERE state IN ('waiting', 'approved') AND expires_at <= :now

-- proposal_then:
-- The proposal of a key that there was at a time.
SELECT * FROM proposals
WHERE key = :key AND base_url = :base_url AND mode = :mode AND account = :account AND asked_at <= :at
ORDER BY number DESC LIMIT 1

-- nearly_spent:
-- Whose total of a window is at least so much, as far as is known without looking at what has left the window since.
SELECT whose, base_url, mode, account FROM totals
WHERE per = :per AND window_s = :window_s AND currency = :currency AND sign = :sign AND total >= :least

-- tell:
-- Let an endpoint be told of an event, once.
INSERT INTO deliveries (event, endpoint, message, payload, at, state, attempts, next_at, note)
VALUES (:event, :endpoint, :message, :payload, :now, :state, 0, :now, '') ON CONFLICT (event, endpoint) DO NOTHING

-- due:
-- What an endpoint is to be sent now, oldest first.
SELECT * FROM deliveries WHERE state = 'waiting' AND next_at <= :now AND endpoint = :endpoint ORDER BY number LIMIT 1

-- take:
-- Be the one who sends it until a time.
UPDATE deliveries SET attempts = attempts + 1, next_at = :until
WHERE number = :number AND attempts = :attempts AND state = 'waiting'

-- settle:
-- Record what became of an attempt, unless another was begun meanwhile, or the endpoint removed.
UPDATE deliveries SET state = :state, next_at = :until, status = :status, note = :note
WHERE number = :number AND attempts = :attempts AND state = 'waiting'

-- standing:
-- How many are in which state, of one endpoint.
SELECT state, COUNT(*) FROM deliveries WHERE endpoint = :endpoint GROUP BY 1

-- last_failure:
-- What was wrong the last time that something did not arrive.
SELECT note FROM deliveries WHERE endpoint = :endpoint AND note != '' ORDER BY number DESC LIMIT 1

-- give_up:
-- Send an endpoint nothing more.
UPDATE deliveries SET state = 'given_up', note = 'the endpoint was removed' WHERE endpoint = :endpoint AND state = 'waiting'

-- forget:
-- Forget what is long over.
DELETE FROM deliveries WHERE state != 'waiting' AND at < :before
