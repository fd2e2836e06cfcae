ALTER TABLE calls ADD COLUMN agent_type TEXT NOT NULL DEFAULT '';
ALTER TABLE calls ADD COLUMN user TEXT;
ALTER TABLE calls ADD COLUMN spent_at REAL NOT NULL DEFAULT 0;
UPDATE calls SET spent_at = MAX(updated_at, lease_until);
-- A worker of the version before, still running on this file, does not know the column.
CREATE TRIGGER calls_spent AFTER INSERT ON calls WHEN NEW.spent_at = 0
BEGIN UPDATE calls SET spent_at = NEW.lease_until WHERE id = NEW.id; END;
CREATE INDEX calls_by_spending ON calls (currency, spent_at);
CREATE TABLE windows (longest_s REAL NOT NULL);
CREATE TABLE decisions (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, decision TEXT NOT NULL, rule TEXT NOT NULL, who TEXT NOT NULL,
    reason TEXT NOT NULL,
    base_url TEXT NOT NULL, mode TEXT NOT NULL, account TEXT NOT NULL, key TEXT NOT NULL, tool TEXT NOT NULL,
    customer TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL, reference TEXT,
    context_id TEXT NOT NULL, agent_type TEXT NOT NULL, user TEXT
);
CREATE INDEX decisions_by_key ON decisions (key);
CREATE INDEX decisions_allowed ON decisions (at) WHERE decision = 'allowed';
CREATE INDEX decisions_denied ON decisions (customer) WHERE decision = 'denied';
CREATE TABLE proposals (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    base_url TEXT NOT NULL, mode TEXT NOT NULL, account TEXT NOT NULL, key TEXT NOT NULL, tool TEXT NOT NULL,
    customer TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL, reference TEXT,
    context_id TEXT NOT NULL, agent_type TEXT NOT NULL, user TEXT,
    arguments TEXT NOT NULL, customer_name TEXT, balance_before INTEGER, rule TEXT NOT NULL, why TEXT NOT NULL,
    asked_at REAL NOT NULL, expires_at REAL NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'approved', 'denied', 'expired', 'used')),
    decided_at REAL, decided_by TEXT, reason TEXT
);
CREATE INDEX proposals_by_key ON proposals (key);
CREATE INDEX proposals_waiting ON proposals (asked_at) WHERE state = 'waiting';
