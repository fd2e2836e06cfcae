-- What is told to the endpoints of webhooks: each event once for each endpoint, in the same bytes until it arrives. Who
-- sends one moves `next_at` on before, so that another server, or the next start, takes it where this one dies.
CREATE TABLE deliveries (
    number INTEGER PRIMARY KEY, event TEXT NOT NULL, endpoint TEXT NOT NULL, message TEXT NOT NULL,
    payload TEXT NOT NULL, at REAL NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'delivered', 'given_up', 'untold')),
    attempts INTEGER NOT NULL, next_at REAL NOT NULL, status INTEGER, note TEXT NOT NULL,
    UNIQUE (event, endpoint)
);
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE state = 'waiting';
CREATE INDEX decisions_told ON decisions (at) WHERE decision NOT IN ('allowed', 'refused');
