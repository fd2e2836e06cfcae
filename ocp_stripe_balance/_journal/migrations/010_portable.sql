-- The same triggers in words that PostgreSQL takes too.
DROP TRIGGER calls_total;
DROP TRIGGER calls_change_total;
DROP TRIGGER calls_leave_total;
DROP TRIGGER decisions_total;
CREATE TRIGGER calls_total AFTER INSERT ON calls
    WHEN EXISTS (SELECT 1 FROM totalled) AND NEW.moves_money AND NEW.state NOT IN ('rejected', 'not_sent')
BEGIN
    INSERT INTO totals SELECT
        per, window_s,
        CASE per WHEN 'customer' THEN NEW.customer WHEN 'user' THEN COALESCE(NEW."user", '')
            WHEN 'agent_type' THEN NEW.agent_type WHEN 'context' THEN NEW.context_id ELSE '' END,
        NEW.base_url, NEW.mode, NEW.account, NEW.currency, CASE WHEN NEW.amount > 0 THEN 1 ELSE -1 END, ABS(NEW.amount)
    FROM totalled WHERE per != 'calls' AND NEW.spent_at > since
    ON CONFLICT (per, window_s, whose, base_url, mode, account, currency, sign)
    DO UPDATE SET total = totals.total + excluded.total;
END;
CREATE TRIGGER calls_change_total AFTER UPDATE OF state, spent_at ON calls
    WHEN EXISTS (SELECT 1 FROM totalled) AND NEW.moves_money
BEGIN
    INSERT INTO totals SELECT
        per, window_s,
        CASE per WHEN 'customer' THEN NEW.customer WHEN 'user' THEN COALESCE(NEW."user", '')
            WHEN 'agent_type' THEN NEW.agent_type WHEN 'context' THEN NEW.context_id ELSE '' END,
        NEW.base_url, NEW.mode, NEW.account, NEW.currency, CASE WHEN NEW.amount > 0 THEN 1 ELSE -1 END,
        CASE WHEN NEW.spent_at > since AND NEW.state NOT IN ('rejected', 'not_sent') THEN ABS(NEW.amount)
            ELSE -ABS(NEW.amount) END
    FROM totalled
    WHERE per != 'calls' AND (NEW.spent_at > since AND NEW.state NOT IN ('rejected', 'not_sent'))
        != (OLD.spent_at > since AND OLD.state NOT IN ('rejected', 'not_sent'))
    ON CONFLICT (per, window_s, whose, base_url, mode, account, currency, sign)
    DO UPDATE SET total = totals.total + excluded.total;
END;
CREATE TRIGGER calls_leave_total AFTER DELETE ON calls
    WHEN OLD.moves_money AND OLD.state NOT IN ('rejected', 'not_sent')
BEGIN
    INSERT INTO totals SELECT
        per, window_s,
        CASE per WHEN 'customer' THEN OLD.customer WHEN 'user' THEN COALESCE(OLD."user", '')
            WHEN 'agent_type' THEN OLD.agent_type WHEN 'context' THEN OLD.context_id ELSE '' END,
        OLD.base_url, OLD.mode, OLD.account, OLD.currency, CASE WHEN OLD.amount > 0 THEN 1 ELSE -1 END, -ABS(OLD.amount)
    FROM totalled WHERE per != 'calls' AND OLD.spent_at > since
    ON CONFLICT (per, window_s, whose, base_url, mode, account, currency, sign)
    DO UPDATE SET total = totals.total + excluded.total;
END;
CREATE TRIGGER decisions_total AFTER INSERT ON decisions
    WHEN NEW.decision = 'allowed' AND EXISTS (SELECT 1 FROM totalled)
BEGIN
    INSERT INTO totals SELECT per, window_s, '', NEW.base_url, NEW.mode, NEW.account, '', 0, 1
    FROM totalled WHERE per = 'calls' AND NEW.at > since
    ON CONFLICT (per, window_s, whose, base_url, mode, account, currency, sign)
    DO UPDATE SET total = totals.total + excluded.total;
END;
