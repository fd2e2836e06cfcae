-- What the rules add up is kept as totals, or each call would cost as much as all calls of its windows.
-- Of every window that a policy counts: up to when its calls have been taken out of the totals again.
CREATE TABLE totalled (
    per TEXT NOT NULL, window_s REAL NOT NULL, since REAL NOT NULL,
    PRIMARY KEY (per, window_s)
) WITHOUT ROWID;
-- What later calls moved, or may have, in minor units; for the kind calls, how many were let through.
CREATE TABLE totals (
    per TEXT NOT NULL, window_s REAL NOT NULL, whose TEXT NOT NULL,
    base_url TEXT NOT NULL, mode TEXT NOT NULL, account TEXT NOT NULL, currency TEXT NOT NULL, sign INTEGER NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (per, window_s, whose, base_url, mode, account, currency, sign)
) WITHOUT ROWID;

-- Every row that comes, changes or goes is in the totals at once, whoever writes it: also a worker of the version
-- before.
CREATE TRIGGER calls_total AFTER INSERT ON calls
    WHEN EXISTS (SELECT 1 FROM totalled) AND NEW.moves_money AND NEW.state IN ('sending', 'succeeded', 'unknown')
BEGIN
    INSERT INTO totals SELECT
        per, window_s,
        CASE per WHEN 'customer' THEN NEW.customer WHEN 'user' THEN COALESCE(NEW."user", '')
            WHEN 'agent_type' THEN NEW.agent_type WHEN 'context' THEN NEW.context_id ELSE '' END,
        NEW.base_url, NEW.mode, NEW.account, NEW.currency, CASE WHEN NEW.amount > 0 THEN 1 ELSE -1 END, ABS(NEW.amount)
    FROM totalled WHERE per != 'calls' AND NEW.spent_at > since
    ON CONFLICT DO UPDATE SET total = total + excluded.total;
END;
CREATE TRIGGER calls_change_total AFTER UPDATE OF state, spent_at ON calls
    WHEN EXISTS (SELECT 1 FROM totalled) AND NEW.moves_money
BEGIN
    INSERT INTO totals SELECT
        per, window_s,
        CASE per WHEN 'customer' THEN NEW.customer WHEN 'user' THEN COALESCE(NEW."user", '')
            WHEN 'agent_type' THEN NEW.agent_type WHEN 'context' THEN NEW.context_id ELSE '' END,
        NEW.base_url, NEW.mode, NEW.account, NEW.currency, CASE WHEN NEW.amount > 0 THEN 1 ELSE -1 END,
        CASE WHEN NEW.spent_at > since AND NEW.state IN ('sending', 'succeeded', 'unknown') THEN ABS(NEW.amount)
            ELSE -ABS(NEW.amount) END
    FROM totalled
    WHERE per != 'calls' AND (NEW.spent_at > since AND NEW.state IN ('sending', 'succeeded', 'unknown'))
        != (OLD.spent_at > since AND OLD.state IN ('sending', 'succeeded', 'unknown'))
    ON CONFLICT DO UPDATE SET total = total + excluded.total;
END;
CREATE TRIGGER calls_leave_total AFTER DELETE ON calls
    WHEN OLD.moves_money AND OLD.state IN ('sending', 'succeeded', 'unknown')
BEGIN
    INSERT INTO totals SELECT
        per, window_s,
        CASE per WHEN 'customer' THEN OLD.customer WHEN 'user' THEN COALESCE(OLD."user", '')
            WHEN 'agent_type' THEN OLD.agent_type WHEN 'context' THEN OLD.context_id ELSE '' END,
        OLD.base_url, OLD.mode, OLD.account, OLD.currency, CASE WHEN OLD.amount > 0 THEN 1 ELSE -1 END, -ABS(OLD.amount)
    FROM totalled WHERE per != 'calls' AND OLD.spent_at > since
    ON CONFLICT DO UPDATE SET total = total + excluded.total;
END;
CREATE TRIGGER decisions_total AFTER INSERT ON decisions
    WHEN NEW.decision = 'allowed' AND EXISTS (SELECT 1 FROM totalled)
BEGIN
    INSERT INTO totals SELECT per, window_s, '', NEW.base_url, NEW.mode, NEW.account, '', 0, 1
    FROM totalled WHERE per = 'calls' AND NEW.at > since
    ON CONFLICT DO UPDATE SET total = total + excluded.total;
END;

-- By the time at which money moved, for what leaves a window.
DROP INDEX calls_by_spending;
CREATE INDEX calls_moved ON calls (spent_at) WHERE moves_money AND state IN ('sending', 'succeeded', 'unknown');
-- By what makes two calls look like one decision: with any reference, and without one.
DROP INDEX calls_by_customer;
CREATE INDEX calls_alike ON calls (customer, currency, amount, created_at);
CREATE INDEX calls_alike_unnamed ON calls (customer, currency, amount, created_at) WHERE reference IS NULL;
-- By what a no was about: the key, the reason, or the amount.
DROP INDEX decisions_denied;
CREATE INDEX decisions_denied_key ON decisions (key) WHERE decision = 'denied';
CREATE INDEX decisions_denied_reference ON decisions (customer, reference) WHERE decision = 'denied';
CREATE INDEX decisions_denied_amount ON decisions (customer, currency, amount, at) WHERE decision = 'denied';
