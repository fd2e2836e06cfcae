CREATE TABLE calls (
    id INTEGER PRIMARY KEY,
    base_url TEXT NOT NULL, mode TEXT NOT NULL, account TEXT NOT NULL, key TEXT NOT NULL,
    tool TEXT NOT NULL, customer TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL,
    reference TEXT, arguments TEXT NOT NULL, path TEXT NOT NULL, body BLOB NOT NULL,
    api_version TEXT NOT NULL, context_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('sending', 'succeeded', 'rejected', 'not_sent', 'unknown')),
    is_final INTEGER NOT NULL, attempts INTEGER NOT NULL, status INTEGER, request_id TEXT, answer TEXT,
    note TEXT,
    created_at REAL NOT NULL, updated_at REAL NOT NULL, owner TEXT NOT NULL, lease_until REAL NOT NULL,
    UNIQUE (key, base_url, mode, account)
);
CREATE INDEX calls_by_reference ON calls (reference, customer) WHERE reference IS NOT NULL;
CREATE INDEX calls_by_customer ON calls (customer, created_at);
CREATE INDEX calls_unsettled ON calls (created_at) WHERE state IN ('sending', 'unknown');
CREATE INDEX calls_by_time ON calls (created_at);
